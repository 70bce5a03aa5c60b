"""Draws what in a face the networks respond to: ``python -m interpret.saliency --layer last_conv``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from faceflax.commands import run, writable_file
from faceflax.errors import FaceflaxError, unknown
from faceflax.labels import EMOTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import flax.linen as nn
    import numpy as np
    from jaxtyping import Int, UInt8
    from matplotlib.figure import Figure

    from faceflax.pretrained import WeightsInfo

BATCH = 256
MAX_SAMPLES = 20
FORMATS = (".png", ".pdf")


@dataclass(frozen=True)
class Options:
    """Draw faces, a row for each perceived emotion, and beside each what in it every network responds to.

    Each map explains the highest activation of --layer. By the method's account a brighter pixel raises that activation
    where the map is red, and a darker one where it is blue.
    """

    layer: str = "last_conv"
    """The layer to explain. Each network has its own names, listed for an unknown one; last_conv is common."""
    method: Literal["guided_backprop", "gradient", "deconvnet"] = "guided_backprop"
    """The attribution method."""
    arch: tuple[str, ...] = ("mini_xception", "sequential_cnn")
    """The networks, side by side; one without weights is left out."""
    weights: tuple[str, ...] = ()
    """Names or .safetensors files of the weights, in place of ARCH-fer2013 for each --arch."""
    images: Path | None = None
    """A picture of a face, a folder of them (rows are then what the first network perceives), or a folder with a folder
    for each emotion. FER-2013's test split if not given, or drawn faces if that is not prepared."""
    samples: int = 3
    """Faces in each row."""
    seed: int = 0
    """Which faces are drawn from the many."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    output: Path = Path("out/saliency.png")
    """The figure, a .png or .pdf file."""


@dataclass(frozen=True)
class Network:
    """Weights that were loaded."""

    info: WeightsInfo
    model: nn.Module
    variables: dict[str, Any]


@dataclass(frozen=True)
class Faces:
    """The faces to choose from.

    Attributes:
        source: where they come from, in words.
        images: for each size that a network takes, all of them at that size.
        labels: their perceived emotions, or None where they have none.
    """

    source: str
    images: dict[int, UInt8[np.ndarray, "n size size"]]
    labels: Int[np.ndarray, " n"] | None


def main(options: Options) -> None:
    """Checks the options, draws the figure and writes it."""
    if not 1 <= options.samples <= MAX_SAMPLES:
        raise FaceflaxError(f"--samples: {options.samples} is out of range; give 1 to {MAX_SAMPLES}")
    if options.seed < 0:
        raise FaceflaxError(f"--seed: {options.seed} is negative; give 0 or more")
    if options.output.suffix.lower() not in FORMATS:
        raise FaceflaxError(f"--output: {str(options.output)!r} is neither of {', '.join(FORMATS)}; name the file so")
    output = writable_file("--output", options.output)
    figure = draw(options)
    partial = output.with_name(f".{output.name}.part")
    figure.savefig(partial, dpi=160, format=output.suffix[1:].lower())
    partial.replace(output)
    print(f"figure: {output}")


def draw(options: Options) -> Figure:
    """Loads the networks, chooses the faces, explains them and draws the grid.

    Raises:
        FaceflaxError: unknown networks, weights, layer or pictures that cannot be used.
    """
    import jax
    import numpy as np

    import interpret
    from faceflax.preprocessing import normalize
    from interpret.figures import Panel, attribution_grid

    networks = _load_networks(options)
    sizes = [network.info.image_size for network in networks]
    faces = _load_faces(options, sizes)
    print(f"faces: {faces.source}")
    labels = _predict(networks[0], faces.images[sizes[0]]) if faces.labels is None else faces.labels
    shown = _choose(labels, options.samples, options.seed)

    panels = []
    for network, size in zip(networks, sizes, strict=True):
        images = normalize(faces.images[size][shown, ..., None])
        method = getattr(interpret, options.method)
        maps = np.asarray(method(network.model, network.variables, images, layer=options.layer))[..., 0]
        count = sum(leaf.size for leaf in jax.tree.leaves(network.variables["params"]))
        panels.append(Panel(f"{network.info.arch}\n{count / 1000:.0f}k parameters", maps))

    names = ", ".join(network.info.name for network in networks)
    according = f" according to {networks[0].info.name}" if faces.labels is None else ""
    return attribution_grid(
        {EMOTIONS[label]: np.flatnonzero(labels[shown] == label) for label in np.unique(labels)},
        faces.images[max(sizes)][shown],
        panels,
        title=f"{options.method.replace('_', ' ').capitalize()}, highest activation of {options.layer}",
        caption=f"rows: perceived emotion{according}; faces: {faces.source}; weights: {names}",
    )


def _load_networks(options: Options) -> list[Network]:
    """Loads the given weights, or those that ship for each --arch, and checks that they can be drawn together."""
    from faceflax import models, pretrained

    for arch in options.arch:
        if arch not in models.list_models():
            raise unknown("--arch", arch, models.list_models())
    names = list(options.weights)
    for arch in () if names else options.arch:
        if f"{arch}-fer2013" in pretrained.list_weights():
            names.append(f"{arch}-fer2013")
        else:
            print(f"left out: {arch}, for want of weights named '{arch}-fer2013'")
    if not names:
        raise FaceflaxError(
            f"--arch: there are no weights of {', '.join(options.arch)}; give a file with --weights "
            "(scripts/train.py makes one)"
        )
    networks = []
    for name in names:
        info = pretrained.weights_info(name)
        if info.arch not in options.arch:
            raise FaceflaxError(f"--weights: {name!r} is of {info.arch}, which is not in --arch; add it there")
        if info.labels != EMOTIONS:
            raise FaceflaxError(
                f"--weights: {name!r} tells {', '.join(info.labels)}; give weights that tell {', '.join(EMOTIONS)}"
            )
        model, variables = pretrained.load(name)
        layers = models.layer_names(model, info.image_size)
        if options.layer not in layers:
            raise FaceflaxError(f"{unknown('--layer', options.layer, layers)} (of {info.arch}; --arch draws one alone)")
        networks.append(Network(info, model, variables))
    return networks


def _load_faces(options: Options, sizes: list[int]) -> Faces:
    """Reads --images, or else FER-2013's test split, or else the drawn faces, at each of the sizes."""
    import numpy as np

    from faceflax import data

    if options.images is not None:
        files, labels = _find_pictures(options.images)
        return Faces(options.images.name, _read_pictures(files, sizes), labels)

    def read(dataset: str) -> Faces:
        examples = {
            size: data.load(dataset, "test", image_size=size, data_dir=options.data_dir) for size in sorted(set(sizes))
        }
        images = {size: split.images[..., 0] for size, split in examples.items()}
        return Faces(f"{dataset} test split", images, np.asarray(examples[sizes[0]].labels))

    try:
        return read("fer2013")
    except FaceflaxError as error:
        print(f"drawn faces are used, for FER-2013 cannot be: {error}")
        return read("synthetic")


def _find_pictures(path: Path) -> tuple[list[Path], Int[np.ndarray, " n"] | None]:
    """Lists the pictures of --images and, where they lie in one folder an emotion, their labels."""
    import numpy as np

    from faceflax.data.folder import SUFFIXES

    def pictures(folder: Path) -> list[Path]:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())

    if path.is_file():
        return [path], None
    if not path.is_dir():
        raise FaceflaxError(f"--images: there is nothing at {str(path)!r}; check the path")
    if files := pictures(path):
        return files, None
    found = [(file, folder.name) for folder in sorted(path.iterdir()) if folder.is_dir() for file in pictures(folder)]
    if not found:
        raise FaceflaxError(
            f"--images: no pictures in {str(path)!r}; expected *.jpg, *.png or the like in it, or in a folder for each "
            "emotion in it"
        )
    for _, name in found:
        if name not in EMOTIONS:
            raise unknown(f"--images: the folders of {str(path)!r}", name, EMOTIONS)
    return [file for file, _ in found], np.array([EMOTIONS.index(name) for _, name in found])


def _read_pictures(files: list[Path], sizes: Iterable[int]) -> dict[int, UInt8[np.ndarray, "n size size"]]:
    """Reads pictures as grey and resizes each to a square of every size."""
    import numpy as np
    from tqdm import tqdm

    from faceflax.preprocessing import read_grey, resize

    images = {size: np.empty((len(files), size, size), np.uint8) for size in sizes}
    for i, file in enumerate(tqdm(files, "reading pictures", delay=1, leave=False)):
        picture = read_grey("--images", file)
        for size, stack in images.items():
            stack[i] = resize(picture, size)
    return images


def _predict(network: Network, images: UInt8[np.ndarray, "n size size"]) -> Int[np.ndarray, " n"]:
    """Returns the label that the network perceives in each image."""
    import jax
    import numpy as np

    from faceflax.preprocessing import normalize

    classify = jax.jit(lambda batch: network.model.apply(network.variables, batch, train=False)[0].argmax(-1))
    batches = np.array_split(images[..., None], -(-len(images) // BATCH))
    return np.concatenate([np.asarray(classify(normalize(batch))) for batch in batches])


def _choose(labels: Int[np.ndarray, " n"], samples: int, seed: int) -> Int[np.ndarray, " m"]:
    """Draws the indices of at most ``samples`` images of each label."""
    import numpy as np

    generator = np.random.default_rng(seed)
    return np.concatenate([generator.permutation(np.flatnonzero(labels == k))[:samples] for k in np.unique(labels)])


if __name__ == "__main__":
    run(main, Options)
