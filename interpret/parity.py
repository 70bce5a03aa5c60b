"""Compares the methods with Captum's: ``python -m interpret.parity --reference captum_emotion.npz --weights FILE``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceflax.cli import Weights, run
from faceflax.errors import FaceflaxError, said

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from interpret.graph import Model

KEYS = {
    "gradient": "saliency",
    "guided_backprop": "guided_backprop",
    "deconvnet": "deconvnet",
    "guided_backprop of a neuron": "neuron_guided_backprop_last_conv",
    "integrated_gradients": "integrated_gradients_zero_baseline_200_steps",
    "grad_cam": "grad_cam_last_conv",
}
"""The rows of the table and, for each, Captum's attributions in the reference file."""


@dataclass(frozen=True)
class Options:
    """Print how far the methods are from Captum's attributions of the same faces and weights.

    The error is norm(ours - Captum's) / norm(Captum's), over all faces and for the median face.
    """

    reference: Path
    """An .npz file with faces (images_uint8), targets (target, neuron_row_col_channel) and Captum's attributions."""
    weights: Weights
    """The weights that Captum was given: a name, a .safetensors file or a Keras .hdf5 file."""


def main(options: Options) -> None:
    """Prints the table."""
    import numpy as np

    try:
        reference = dict(np.load(options.reference))
    except (OSError, ValueError) as error:
        raise FaceflaxError(
            "reference", options.reference, f"cannot read {{}} ({said(error)})", "name an .npz file"
        ) from None
    missing = {"images_uint8", "target", "neuron_row_col_channel", *KEYS.values()} - set(reference)
    if missing:
        raise FaceflaxError(
            "reference", options.reference, f"holds no {', '.join(sorted(missing))}", "name another file"
        )
    explained = explain(*_load(options.weights), reference)
    print("| method | relative error | median face |\n| --- | --- | --- |")
    for name, attribution in explained.items():
        errors = compare(attribution, reference[KEYS[name]])
        print(f"| {name} | {errors[0]:.1e} | {np.median(errors[1:]):.1e} |")


def explain(model: Model, variables: Any, reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns our attributions for each row of the table.

    Args:
        model: the network that Captum was given.
        variables: its weights.
        reference: the reference file's arrays.
    """
    import jax.numpy as jnp
    import numpy as np

    import interpret
    from faceflax.preprocessing import normalize

    images = jnp.asarray(normalize(reference["images_uint8"])[..., None])
    target = reference["target"]
    ours = {
        "gradient": interpret.gradient(model, variables, images, target),
        "guided_backprop": interpret.guided_backprop(model, variables, images, target),
        "deconvnet": interpret.deconvnet(model, variables, images, target),
        "guided_backprop of a neuron": interpret.guided_backprop(
            model, variables, images, interpret.Neuron("last_conv", *reference["neuron_row_col_channel"].T)
        ),
        "integrated_gradients": interpret.integrated_gradients(model, variables, images, target, steps=200),
        "grad_cam": interpret.grad_cam(model, variables, images, target, relu=False, enlarge=False),
    }
    return {name: np.asarray(attribution) for name, attribution in ours.items()}


def compare(ours: np.ndarray, theirs: np.ndarray) -> Float[np.ndarray, " faces_and_one"]:
    """Returns the relative error ``norm(ours - theirs) / norm(theirs)`` over all faces, then that of each face.

    Example:
        >>> import numpy as np
        >>> compare(np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[1.0, 2.0], [3.0, 4.0]])).round(2)
        array([0.18, 0.  , 0.2 ])
    """
    import numpy as np

    pairs = [(ours, theirs), *zip(ours, theirs, strict=True)]
    return np.array([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs])


def _load(weights: str) -> tuple[Model, Any]:
    from faceflax import models, pretrained
    from faceflax.pretrained import keras

    if weights.endswith((".hdf5", ".h5")):
        read = keras.read(Path(weights))
        return models.create(read.arch, read.num_classes), read.variables
    return pretrained.load(weights)


if __name__ == "__main__":
    run(main, Options)
