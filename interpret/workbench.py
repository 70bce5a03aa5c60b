"""What the browser app of faceflax explains faces with: every method by name, for every network that labels faces."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8

from faceflax import models, pretrained
from faceflax.app import Explained
from faceflax.errors import FaceflaxError, unknown
from faceflax.labels import EMOTIONS
from faceflax.opencv import cv2
from faceflax.preprocessing import normalize
from interpret.attribution import apply
from interpret.benchmark import METRICS, SENSITIVITIES, edges, evaluate, random
from interpret.figures import COLORS, PERCENTILE, UNSIGNED_COLORS
from interpret.methods import ATTENTION, METHODS, UNSIGNED
from interpret.overlay import Explainer, explainer
from interpret.targets import as_score

PREDICTED, HIGHEST = "predicted", "highest activation"
FLOORS = {"edges": edges, "random": random}
"""Maps that see no network: what does not look better than these says nothing."""

MISLEADS = {
    "gradient": "it is noisy, and small where the score has saturated though the pixel matters.",
    "gradient_x_input": "a middle grey pixel gets zero however much it matters.",
    "integrated_gradients": "what is like the baseline, middle grey, gets nothing, and the way to it leads through "
    "pictures that are no faces.",
    "expected_gradients": "its baselines are flat images here, and few samples leave noise.",
    "guided_integrated_gradients": "its sum stays short of the score's difference, for it moves the pixels "
    "whose gradient is small.",
    "blur_integrated_gradients": "what survives the blur, a large even patch, gets nothing.",
    "smooth_grad": "it explains the network on noisy images that it never saw.",
    "smooth_grad_squared": "it does not say for or against, and rests on images with noise that the network never saw.",
    "var_grad": "a pixel on which the score depends strongly and evenly is dark.",
    "guided_backprop": "it is no evidence of what a decision rests on: the maps hardly change when the upper "
    "layers become random.",
    "deconvnet": "it depends on the image through max-pooling alone.",
    "full_grad": "drawing takes the signs away, and deep layers paint blobs over fine detail.",
    "deep_lift": "what is like the baseline gets nothing, and two ways to write one network may get two maps.",
    "deep_lift_shap": "it is near Shapley values only where features do not act together.",
    "grad_cam": "it averages a gradient over the layer before it looks where, and may point beside the face.",
    "grad_cam_plus_plus": "its weights are positive by construction, so the maps of two classes are too alike.",
    "guided_grad_cam": "both parts' faults multiply; the detail is still guided backprop's.",
    "layer_cam": "what lowers the score is cut before the sum.",
    "hires_cam": "behind several layers it has their kinks.",
    "x_grad_cam": "a channel whose activations cancel gets a huge weight.",
    "eigen_cam": "it does not know the class.",
    "score_cam": "its softmax gives nearly all weight to the best channel.",
    "ablation_cam": "two channels that each suffice get nothing.",
    "lrp_epsilon": "with the small default it is gradient times input on networks of ReLUs and maxima.",
    "lrp_alpha_beta": "the map hardly depends on the upper layers.",
    "lrp_z_plus": "where z+ rules nearly all layers the map hardly depends on the class.",
    "lrp_gamma": "its sharpness is the choice of gamma, which no measurement gives.",
    "lrp_epsilon_plus": "where z+ rules nearly all layers the map hardly depends on the class.",
    "lrp_epsilon_plus_flat": "its first layer spreads evenly, so fine detail is lost on purpose.",
    "lrp_w_squared": "its first layer does not look at the pixels.",
    "attn_lrp": "on networks of ReLUs it is lrp_epsilon.",
    "occlusion": "a grey square is itself something to see, and two eyes that each suffice get nothing.",
    "rise": "sampling noise looks like structure, and a face half covered is no face.",
    "feature_ablation": "two regions that each suffice get nothing.",
    "shapley_sampling": "most of the images it asks about have most of the face hidden.",
    "kernel_shap": "its noise looks like structure.",
    "lime": "it does not say how well its linear model fits, and depends on its kernel's width.",
    "sobol": "it has no sign, and its shares sum to more than one.",
    "hsic": "it has no sign, and below its noise all cells look alike.",
    "extremal_perturbation": "it is one optimum of many, and a network is satisfied by little.",
    "edges": "it sees no network: a method that looks like it may only have found edges.",
    "random": "it sees nothing: a method that measures no better says nothing.",
}
"""For each map that the page shows, how it misleads."""

_SIDE = 240  # of a picture, in pixels


class Workbench:
    """The attribution methods for the weights that ship, or for others; made by :func:`workbench`.

    Any number of threads may use it.

    Args:
        weights: names or files of networks that label faces.

    Raises:
        FaceflaxError: weights that cannot be loaded.

    Example:
        >>> bench = Workbench(["mini_xception-fer2013"])
        >>> bench.targets("mini_xception-fer2013")[:3]
        ['predicted', 'highest activation', 'angry']
        >>> explained = bench.explain(
        ...     np.zeros((48, 48), np.uint8), weights="mini_xception-fer2013", methods=["gradient"],
        ...     layer="last_conv", target="happy",
        ... )  # fmt: skip
        >>> [name for _, name in explained.pictures]
        ['face', 'gradient', 'edges', 'random']
    """

    methods: Sequence[str] = tuple(name for name in METHODS if name not in ATTENTION)

    def __init__(self, weights: Sequence[str]) -> None:
        self.weights = list(weights)
        for name in self.weights:
            pretrained.weights_info(name)
        self._load = functools.cache(pretrained.load)
        self._explainers: dict[str, Explainer] = {}

    def layers(self, weights: str) -> list[str]:
        """Returns the names of a network's layers."""
        loaded = self._loaded(weights)
        return list(models.layer_names(loaded.model, loaded.info.image_size))

    def targets(self, weights: str) -> list[str]:
        """Returns what can be explained: the predicted class, a layer's highest activation, and each class."""
        return [PREDICTED, HIGHEST, *self._loaded(weights).info.labels]

    def cut(self, weights: str) -> tuple[float, int]:
        """Returns the margin and the size of the network's crops."""
        info = self._loaded(weights).info
        return info.crop_margin, info.image_size

    def quick(self, crops: UInt8[np.ndarray, "n size size"], *, weights: str) -> UInt8[np.ndarray, "n size size 3"]:
        """Returns the guided backpropagation of what the network perceives in each face, as RGB, fast."""
        if weights not in self._explainers:
            model, variables = self._loaded(weights)
            self._explainers[weights] = explainer(model, variables)
        maps = self._explainers[weights](normalize(crops[..., None]))[1][..., 0]
        return np.stack([colored(each, signed=True) for each in maps])

    def explain(
        self,
        crop: UInt8[np.ndarray, "size size"],
        *,
        weights: str,
        methods: Sequence[str],
        layer: str,
        target: str,
        metrics: bool = False,
    ) -> Explained:
        """Explains one face; see :class:`faceflax.app.Workbench`."""
        loaded = self._loaded(weights)
        (model, variables), info = loaded, loaded.info
        if not methods:
            raise FaceflaxError("methods", None, "there are none", "choose one or more")
        for name in methods:
            if name not in self.methods:
                raise unknown("methods", name, self.methods)
        if layer not in self.layers(weights):
            raise unknown("layer", layer, self.layers(weights))
        if target not in self.targets(weights):
            raise unknown("target", target, self.targets(weights))
        if crop.shape != (info.image_size, info.image_size):
            raise FaceflaxError("crop", crop.shape, f"is not {info.image_size} pixels a side", "cut it as cut() says")
        images = jnp.asarray(normalize(crop[None, ..., None]))
        logits, features = apply(model, variables, images)
        index = logits.argmax(-1) if target == PREDICTED else jnp.array([_index(info.labels, target)])
        score = as_score(None if target == HIGHEST else index, layer, logits, features).fixed(logits, features)

        pictures = [(_enlarged(np.stack([crop] * 3, -1)), "face")]
        rows = []
        for name in [*methods, *FLOORS]:
            method = FLOORS[name] if name in FLOORS else functools.partial(METHODS[name], layer=layer)
            values = np.asarray(method(model, variables, images, score))[0, ..., 0]
            signed = name not in UNSIGNED and name not in FLOORS
            pictures.append((_enlarged(colored(values, signed=signed)), name))
            if metrics:
                measured = evaluate(
                    method,
                    model,
                    variables,
                    images,
                    score,  # type: ignore[arg-type]
                    signed=name not in SENSITIVITIES,
                    key=jax.random.key(0),
                )
                rows.append([name, *(f"{measured[each][0]:.3f}" for each in METRICS if each in measured)])
        what = f"the highest activation of {layer}" if target == HIGHEST else f"{info.labels[int(index[0])]!r}"
        perceived = info.labels[int(logits.argmax())]
        return Explained(
            title=f"What {weights} reads {what} from (it perceives {perceived!r})",
            pictures=pictures,
            notes=[(name, MISLEADS[name]) for name in [*methods, *FLOORS]],
            columns=["map", *(_head(each) for each in METRICS if each in measured)] if metrics else (),
            rows=rows,
        )

    def _loaded(self, weights: str) -> pretrained.LoadedModel:
        if weights not in self.weights:
            raise unknown("weights", weights, self.weights)
        return self._load(weights)


def workbench(first: str = "mini_xception-fer2013", task: str | None = None) -> Workbench:
    """Makes the workbench of all weights that ship and label faces: ``first`` before the others, ``task`` after it.

    Raises:
        FaceflaxError: ``first`` cannot be loaded, or predicts no emotions.
    """
    info = pretrained.weights_info(first)
    if info.labels != EMOTIONS:
        raise FaceflaxError("weights", first, f"predicts {', '.join(info.labels)}", "give weights of emotions")
    shipped = [name for name in pretrained.list_weights() if pretrained.weights_info(name).arch not in models.DETECTORS]
    return Workbench(list(dict.fromkeys([first, *([] if task is None else [task]), *shipped])))


def colored(values: Float[np.ndarray, "height width"], *, signed: bool) -> UInt8[np.ndarray, "height width 3"]:
    """Returns a map as colours: blue, white and red about zero, or black to yellow for maps without a sign.

    Example:
        >>> below, _, above = colored(np.array([[-1.0, 0.0, 1.0]]), signed=True)[0]
        >>> bool(below[2] > below[0]), bool(above[0] > above[2])  # blue, red
        (True, True)
    """
    limit = max(float(np.percentile(np.abs(values), PERCENTILE)), 1e-12)
    share = np.clip(values / limit, -1, 1)
    position = (share + 1) / 2 if signed else np.clip(share, 0, 1)
    colors = matplotlib.colormaps[COLORS if signed else UNSIGNED_COLORS]
    return (255 * colors(position)[..., :3]).astype(np.uint8)


def _enlarged(picture: UInt8[np.ndarray, "side side 3"]) -> UInt8[np.ndarray, "larger larger 3"]:
    return np.asarray(cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST))


def _index(labels: Sequence[str], target: str) -> int:
    return labels.index(target) if target in labels else 0


def _head(metric: str) -> str:
    arrows: dict[str, Any] = {"lower": " \N{DOWNWARDS ARROW}", "higher": " \N{UPWARDS ARROW}", "": ""}
    return f"{metric}{arrows[METRICS[metric]]}"
