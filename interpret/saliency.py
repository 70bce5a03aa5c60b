"""Draws what in a face the networks respond to: ``python -m interpret.saliency --layer last_conv``."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from faceflax.cli import ReportOptions, run
from faceflax.cli.reporting import counted
from faceflax.errors import FaceflaxError, needing_extras, said, unknown
from faceflax.files import replacing, writable_file
from faceflax.labels import EMOTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from jaxtyping import Float, Int, UInt8
    from matplotlib.figure import Figure

    from interpret.attribution import Method
    from interpret.benchmark import Table
    from interpret.graph import Images, Model
    from interpret.subject import Preprocess

MAX_SAMPLES = 20
SYNTHETIC_FACES = 14 * MAX_SAMPLES  # twice as many of each emotion as a row may show
SYNTHETIC_SEED = 2  # that of the synthetic dataset's test split
FORMATS = (".png", ".pdf", ".npz")
ROWS = "rows: perceived emotion{0}; faces: {1}; weights: {2}"


class Cut(NamedTuple):
    """How a network's images are cut out.

    Attributes:
        height: in pixels.
        width: in pixels.
        margin: around the face as a share of its side; None where whole images are taken.
        colour: RGB, not grey.
    """

    height: int
    width: int
    margin: float | None
    colour: bool = False


@dataclass(frozen=True)
class Options:
    """Draw faces, a row for each perceived emotion, and beside each what in it every network responds to.

    Without labels the rows are what the first network perceives. Without --images the faces are those of FER-2013's
    test split, or, if that is not prepared, synthetic ones. With --model, the network and the images are your own.

    Each map explains the highest activation of --layer, or with --target emotion the logit of its row. What a map's
    sign means depends on the method; interpret/README.md says so for each. Gradients, guided_backprop and deconvnet are
    red where a brighter pixel raises the score and blue where a darker one does; the others are red where a pixel
    speaks for it. Class activation maps, var_grad, full_grad, sobol, hsic and extremal_perturbation have no sign.
    """

    layer: str = "last_conv"
    """The layer to explain. Each network has its own names, listed for an unknown one; last_conv is common."""
    method: str = "guided_backprop"
    """The attribution method; an unknown name lists all."""
    target: Literal["highest", "emotion"] = "highest"
    """What is explained: the layer's highest activation (the paper's choice), or the emotion of the row."""
    arch: tuple[str, ...] = ("mini_xception", "sequential_cnn")
    """The networks, side by side; one without weights is left out."""
    weights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME|FILE ...]")] = ()
    """Names or .safetensors files of the weights, in place of ARCH-fer2013 for each --arch."""
    images: Path | None = None
    """A photograph, a folder of them, or a folder of folders named after emotions; else FER-2013 or synthetic faces.

    The faces in them are found and cut out upright, as analyze does, and it is said how many. A photograph in a folder
    named after an emotion is of one face: the one that is found with the highest score.
    """
    whole_image: bool = False
    """Take each of --images as one face as it is, squashed to a square, as for crops of a dataset."""
    model: Annotated[str | None, tyro.conf.arg(metavar="MODULE:FUNCTION")] = None
    """Any network instead of --arch and --weights, of --images: a function that takes nothing and returns an
    interpret.Subject, such as mine:network in mine.py; its labels stand where emotions are spoken of."""
    emotions: tuple[str, ...] = ()
    """The perceived emotions that get a row; all if not given."""
    samples: int = 3
    """Faces in each row, at most 20."""
    seed: int = 0
    """Seed of the choice of faces."""
    metrics: bool = False
    """Also print what interpret.metrics and interpret.sanity make of the maps."""
    overlay: bool = False
    """Draw the maps over the faces."""
    scale: Literal["map", "network"] = "map"
    """Whether each map has a colour scale of its own, or all maps of a network share one."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    output: Path = Path("out/saliency.png")
    """The figure, a .png or .pdf file, or the faces and maps themselves, an .npz file."""
    said: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


@dataclass(frozen=True)
class Network:
    """A network that was loaded.

    Attributes:
        name: of the weights, or of the function that made it.
        title: what stands above its maps.
        model: as the methods take it.
        variables: as the methods take them.
        labels: of its classes.
        cut: what images it takes.
        preprocess: makes its input of uint8 images ``[n, height, width, channels]``.
    """

    name: str
    title: str
    model: Model
    variables: Any
    labels: tuple[str, ...]
    cut: Cut
    preprocess: Preprocess

    def input(self, images: UInt8[np.ndarray, "n height width *channels"]) -> Images:
        """What it takes of images that are cut out."""
        import jax.numpy as jnp

        return jnp.asarray(self.preprocess(images if self.cut.colour else images[..., None]))


@dataclass(frozen=True)
class Faces:
    """The faces to choose from.

    Attributes:
        source: where they come from, in words.
        images: for each way that a network takes them, all of them cut so; grey or RGB.
        labels: their perceived emotions, or None where they have none.
    """

    source: str
    images: dict[Cut, UInt8[np.ndarray, "n height width *channels"]]
    labels: Int[np.ndarray, " n"] | None


@dataclass(frozen=True)
class Explained:
    """Chosen faces and their maps.

    Attributes:
        source: where the faces come from, in words.
        networks: whose maps they are.
        images: for each way that a network takes them, the faces.
        labels: their perceived emotions.
        given: whether the labels came with the faces; if not, they are the first network's answer.
        maps: each network's attribution of its faces.
        metrics: what was measured of each network's maps; None if nothing was.
    """

    source: str
    networks: list[Network]
    images: dict[Cut, UInt8[np.ndarray, "n height width *channels"]]
    labels: Int[np.ndarray, " n"]
    given: bool
    maps: list[Float[np.ndarray, "n height width"]]
    metrics: Table | None = None


def main(options: Options) -> None:
    """Checks the options, explains the faces and writes the figure or the arrays."""
    if not 1 <= options.samples <= MAX_SAMPLES:
        raise FaceflaxError("samples", options.samples, "is out of range", f"give 1 to {MAX_SAMPLES}")
    if not 0 <= options.seed < 2**32:
        raise FaceflaxError("seed", options.seed, "is no seed", f"give 0 to {2**32 - 1}")
    if options.model is None:
        _check_labels(options, EMOTIONS)
    suffix = options.output.suffix.lower()
    if suffix not in FORMATS:
        raise FaceflaxError("output", options.output, f"is none of {', '.join(FORMATS)}", "name the file so")
    output = writable_file("output", options.output)
    began = time.monotonic()
    explained = explain(options)
    with replacing(output) as temporary:
        if suffix == ".npz":
            save(explained, options, temporary)
        else:
            draw(explained, options).savefig(temporary, dpi=160, format=suffix[1:])
    seconds = time.monotonic() - began
    names = [network.name for network in explained.networks]
    count, what = len(explained.labels), "images" if options.model else "faces"
    numbers = {
        "method": options.method,
        "layer": options.layer,
        "target": options.target,
        "weights": names,
        "source": explained.source,
        what: count,
        "seconds": round(seconds, 3),
    }
    lines = [f"{options.method} of {counted(count, what[:-1])} by {', '.join(names)}; {seconds:.1f} s"]
    if explained.metrics is not None:
        lines.insert(0, explained.metrics.text(".md"))
        numbers["metrics"] = json.loads(explained.metrics.text(".json"))["methods"]
    options.said.say("\n".join(lines), numbers, [output])


def explain(options: Options) -> Explained:
    """Loads the networks, chooses the faces and explains them.

    Raises:
        FaceflaxError: unknown method, networks, weights, layer or images that cannot be used.
    """
    import numpy as np
    from tqdm import tqdm

    from interpret.methods import METHODS

    if options.method not in METHODS:
        raise unknown("method", options.method, METHODS)
    networks = _load_networks(options) if options.model is None else [_load_model(options.model, options)]
    known = networks[0].labels
    _check_labels(options, known)
    faces = _load_faces(options, known, [network.cut for network in networks])
    print(f"{'images' if options.model else 'faces'}: {faces.source}")
    labels = _predict(networks[0], faces.images[networks[0].cut]) if faces.labels is None else faces.labels
    wanted = [known.index(label) for label in options.emotions or known]
    shown = _choose(labels, wanted, options.samples, options.seed)
    if not shown.size:
        what = "image" if options.model else "face"
        raise FaceflaxError(
            "emotions", None, f"no {what} of {faces.source} shows {', '.join(options.emotions)}", "name others"
        )

    maps, metrics = [], {}
    for network in tqdm(networks, options.method, leave=False):
        images = network.input(faces.images[network.cut][shown])
        target = _target(options, network, images, labels[shown])
        method = partial(METHODS[options.method], layer=options.layer)
        each = [  # a face at a time: a method's memory grows with the faces
            method(network.model, network.variables, images[i : i + 1], _of_one(target, i)) for i in range(len(images))
        ]
        maps.append(np.concatenate(each).mean(-1))
        if options.metrics:
            metrics[network.name] = _metrics(options, method, network, images, target)
    caption = f"{options.method}, means over the {len(shown)} faces shown"
    chosen = {cut: images[shown] for cut, images in faces.images.items()}
    return Explained(
        faces.source,
        networks,
        chosen,
        labels[shown],
        faces.labels is not None,
        maps,
        _metrics_table(metrics, caption) if options.metrics else None,
    )


def draw(explained: Explained, options: Options) -> Figure:
    """Draws the grid: rows are perceived emotions, columns each sample and, beside it, each network's map."""
    import numpy as np

    from interpret.figures import Panel, attribution_grid
    from interpret.methods import UNSIGNED

    pairs = zip(explained.networks, explained.maps, strict=True)
    panels = [Panel(network.title, maps) for network, maps in pairs]
    names = ", ".join(network.name for network in explained.networks)
    according = "" if explained.given else f" according to {explained.networks[0].name}"
    own = "label" if options.model else "emotion"
    what = f"the highest activation of {options.layer}" if options.target == "highest" else f"the row's {own}"
    rows = "rows: label{0}; images: {1}; network: {2}" if options.model else ROWS
    return attribution_grid(
        {explained.networks[0].labels[k]: np.flatnonzero(explained.labels == k) for k in np.unique(explained.labels)},
        explained.images[max(explained.images)],
        panels,
        title=f"{options.method} of {what}",
        caption=rows.format(according, explained.source, names),
        column="image" if options.model else "face",
        signed=options.method not in UNSIGNED,
        overlay=options.overlay,
        scale=options.scale,
    )


def save(explained: Explained, options: Options, file: Path) -> None:
    """Writes faces, labels and maps as an .npz file, each network's under its weights' name."""
    import numpy as np

    arrays: dict[str, Any] = {
        "labels": explained.labels,
        "emotions": np.array(explained.networks[0].labels),
        "method": options.method,
        "layer": options.layer,
        "target": options.target,
        "source": explained.source,
        "weights": np.array([network.name for network in explained.networks]),
    }
    for network, maps in zip(explained.networks, explained.maps, strict=True):
        arrays[f"images {network.name}"] = explained.images[network.cut]
        arrays[f"maps {network.name}"] = maps
    with file.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def _target(options: Options, network: Network, images: Images, labels: Int[np.ndarray, " n"]) -> Any:
    """What the maps explain, chosen for good: the method and its metrics are to look at the same thing."""
    from interpret.attribution import apply
    from interpret.targets import as_score

    answer = apply(network.model, network.variables, images)
    return as_score(None if options.target == "highest" else labels, options.layer, *answer).fixed(*answer)


def _of_one(target: Any, i: int) -> Any:
    import jax

    return jax.tree.map(lambda index: index[i : i + 1], target)


def _metrics(options: Options, method: Method, network: Network, images: Images, target: Any) -> Any:
    import jax

    from interpret.benchmark import SENSITIVITIES, evaluate

    signed, key = options.method not in SENSITIVITIES, jax.random.key(options.seed)
    return evaluate(method, network.model, network.variables, images, target, signed=signed, key=key)


def _metrics_table(rows: Any, caption: str) -> Table:
    from interpret.benchmark import METRICS, Table

    return Table(METRICS, rows, caption)


def _load_networks(options: Options) -> list[Network]:
    """Loads the given weights, or those that ship for each network, and checks that they can be drawn together."""
    import jax

    from faceflax import models, pretrained
    from faceflax.preprocessing import normalize

    for arch in options.arch:
        if arch not in models.list_classifiers():
            raise unknown("arch", arch, models.list_classifiers())
    names = list(options.weights)
    for arch in () if names else options.arch:
        if f"{arch}-fer2013" in pretrained.list_weights():
            names.append(f"{arch}-fer2013")
        else:
            print(f"left out: {arch}, for want of weights named '{arch}-fer2013'")
    if not names:
        raise FaceflaxError(
            "arch",
            None,
            f"there are no weights of {', '.join(options.arch)}",
            "give a file as weights (faceflax train makes one)",
        )
    networks = []
    for name in names:
        info = pretrained.weights_info(name)
        if info.arch not in options.arch:
            raise FaceflaxError("weights", name, f"is of {info.arch}, which is not in arch", "add it there")
        if info.labels != EMOTIONS:
            raise FaceflaxError(
                "weights",
                name,
                f"predicts {', '.join(info.labels)}",
                f"give weights that predict {', '.join(EMOTIONS)}",
            )
        model, variables = pretrained.load(name)
        layers = models.layer_names(model, info.image_size)
        if options.layer not in layers:
            raise FaceflaxError(
                "layer",
                options.layer,
                "unknown {}",
                f"choose one of: {', '.join(layers)} (of {info.arch}; arch draws one alone)",
            )
        count = sum(leaf.size for leaf in jax.tree.leaves(variables))  # BatchNorm's statistics too, as everywhere
        title = f"{info.arch}\n{count / 1000:.0f}k parameters"
        cut = Cut(info.image_size, info.image_size, info.crop_margin)
        networks.append(Network(info.name, title, model, variables, info.labels, cut, normalize))
    return networks


def _load_model(name: str, options: Options) -> Network:
    """Loads the network that a function of the user's returns, and checks that it can be drawn."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from faceflax.preprocessing import normalize
    from interpret.attribution import answer_shapes
    from interpret.methods import CAMS
    from interpret.subject import load_subject
    from interpret.targets import checked_layer

    if options.weights:
        raise FaceflaxError("weights", ", ".join(options.weights), "{} are not used with model", "leave one out")
    if options.images is None:
        raise FaceflaxError("images", None, "are needed for a model of one's own", "give a photograph or a folder")
    subject = load_subject("model", name)
    (model, variables), (height, width) = subject.network, subject.image_size
    preprocess = subject.preprocess or normalize
    try:
        images = jnp.asarray(preprocess(np.zeros((1, height, width, subject.channels), np.uint8)))
    except Exception as error:  # the user's function
        raise FaceflaxError("model", name, f"{{}}: preprocess raised {said(error, kind=True)}", "correct it") from error
    logits, features = answer_shapes(model, variables, images)
    if options.target == "highest" or options.method in CAMS:
        checked_layer(options.layer, features)
    labels = subject.labels or tuple(f"class {i}" for i in range(logits.shape[1]))
    if len(labels) != logits.shape[1]:
        raise FaceflaxError("model", name, f"{{}} has {len(labels)} labels for {logits.shape[1]} logits")
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(variables))
    size = f"{count / 1000:.0f}k numbers" if count >= 1000 else counted(count, "number")
    title = f"{name.partition(':')[2]}\n{size}"
    cut = Cut(height, width, subject.crop_margin, subject.channels == 3)
    return Network(name, title, model, variables, tuple(labels), cut, preprocess)


def _check_labels(options: Options, known: Sequence[str]) -> None:
    for label in options.emotions:
        if label not in known:
            raise unknown("emotions", label, known)


def _load_faces(options: Options, known: Sequence[str], cuts: list[Cut]) -> Faces:
    """Finds the faces of the given images, or else reads FER-2013's test split, or else renders synthetic faces."""
    if options.images is not None:
        files, labels = _find_images(options.images, known)
        if options.whole_image or all(cut.margin is None for cut in cuts):
            return Faces(options.images.name, _read_images(files, cuts), labels)
        return _faces_of(options.images.name, files, labels, cuts)
    if options.whole_image:
        raise FaceflaxError("whole_image", None, "is for images", "give them, or leave it out")
    try:
        return _load_fer2013(options.data_dir, cuts)
    except FaceflaxError as error:
        print(f"synthetic faces are used, because FER-2013 cannot be: {error}")

    from faceflax.data.synthetic import render_faces

    faces = {cut: render_faces(SYNTHETIC_FACES, SYNTHETIC_SEED, cut.height) for cut in dict.fromkeys(cuts)}
    images = {cut: rendered.images[..., 0] for cut, rendered in faces.items()}
    return Faces("synthetic faces", images, faces[cuts[0]].emotions)


def _load_fer2013(data_dir: Path | None, cuts: list[Cut]) -> Faces:
    import numpy as np

    with needing_extras():
        from faceflax import data

        sizes = sorted({cut.height for cut in cuts})
        examples = {size: data.load("fer2013", "test", image_size=size, data_dir=data_dir) for size in sizes}
    images = {cut: examples[cut.height].images[..., 0] for cut in cuts}
    return Faces("fer2013 test split", images, np.asarray(examples[cuts[0].height].labels))


def _faces_of(source: str, files: list[Path], labels: Int[np.ndarray, " n"] | None, cuts: list[Cut]) -> Faces:
    """Finds the faces of photographs and cuts them out, upright, as each network takes them; says what was found.

    Raises:
        FaceflaxError: a file that is no image, or no face in any.
    """
    import numpy as np
    from tqdm import tqdm

    from faceflax.faces import crop_face, make_detector
    from faceflax.faces.detection import search
    from faceflax.faces.frame import as_frame
    from faceflax.preprocessing import read_image

    detector = make_detector()
    faces: dict[Cut, list[Any]] = {cut: [] for cut in cuts}
    origins, without, beside = [], [], 0
    for i, file in enumerate(tqdm(files, "finding faces", delay=1, leave=False)):
        frame = as_frame(read_image("images", file))
        found = search(detector, frame)
        if not found:
            without.append(file.name)
        if labels is not None:
            beside += len(found[1:])
            found = found[:1]
        for face in found:
            box = [round(float(value)) for value in face.box]
            origins.append(i)
            for cut in faces:
                pixels = frame[..., ::-1] if cut.colour else frame.grey
                cut_out = crop_face(np.ascontiguousarray(pixels), box, cut.margin or 0.0, cut.height, face.landmarks)
                faces[cut].append(cut_out)
    remedy = "whole_image takes each image as a face as it is"
    if not origins:
        raise FaceflaxError("images", source, f"no face was found in the {len(files)} images of {{}}", remedy)
    notes = [f"found and cut out {len(origins)} in {len(files) - len(without)} of {counted(len(files), 'image')}"]
    if without:
        shown = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
        notes.append(f"none in {shown} ({remedy})")
    if beside:
        notes.append(f"of several in a labelled image the surest, {beside} others left out")
    print(f"faces: {'; '.join(notes)}")
    given = None if labels is None else labels[np.array(origins)]
    return Faces(source, {cut: np.stack(images) for cut, images in faces.items()}, given)


def _find_images(path: Path, known: Sequence[str]) -> tuple[list[Path], Int[np.ndarray, " n"] | None]:
    """Lists the image files at a path and, where they lie in one folder an emotion, their labels."""
    import numpy as np

    from faceflax.media.sources import IMAGE_SUFFIXES

    def images(folder: Path) -> list[Path]:
        suffixes = (*IMAGE_SUFFIXES, ".pgm")
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes and file.is_file())

    if os.path.isfile(path):  # Path.is_file raises for names that are too long
        return [path], None
    if not os.path.isdir(path):
        raise FaceflaxError("images", path, "there is nothing at {}", "check the path")
    if files := images(path):
        return files, None
    found = [(file, folder.name) for folder in sorted(path.iterdir()) if folder.is_dir() for file in images(folder)]
    if not found:
        raise FaceflaxError(
            "images",
            path,
            "no images in {}",
            "expected *.jpg, *.png or the like in it, or in a folder for each label in it",
        )
    for _, name in found:
        if name not in known:
            raise FaceflaxError(
                "images", path, f"the folders of {{}}: unknown {name!r}", f"choose one of: {', '.join(known)}"
            )
    return [file for file, _ in found], np.array([known.index(name) for _, name in found])


def _read_images(files: list[Path], cuts: Iterable[Cut]) -> dict[Cut, UInt8[np.ndarray, "n height width *channels"]]:
    """Reads images, and squashes each to what every network takes."""
    import numpy as np
    from tqdm import tqdm

    from faceflax.preprocessing import read_grey, read_image, resize

    images: dict[Cut, list[np.ndarray]] = {cut: [] for cut in cuts}
    for file in tqdm(files, "reading images", delay=1, leave=False):
        for cut, stack in images.items():
            image = read_image("images", file)[..., ::-1] if cut.colour else read_grey("images", file)
            stack.append(resize(np.ascontiguousarray(image), (cut.height, cut.width)))
    return {cut: np.stack(stack) for cut, stack in images.items()}


def _predict(network: Network, images: UInt8[np.ndarray, "n height width *channels"]) -> Int[np.ndarray, " n"]:
    """Returns the label that the network perceives in each image."""
    import numpy as np

    from interpret.attribution import apply

    parts = np.array_split(images, -(-len(images) // 32))  # some at a time: memory grows with them
    answers = [apply(network.model, network.variables, network.input(part))[0] for part in parts]
    return np.concatenate(answers).argmax(-1)


def _choose(labels: Int[np.ndarray, " n"], wanted: Sequence[int], samples: int, seed: int) -> Int[np.ndarray, " m"]:
    """Chooses the indices of at most ``samples`` images of each wanted label at random."""
    import numpy as np

    generator = np.random.default_rng(seed)
    orders = {k: generator.permutation(np.flatnonzero(labels == k)) for k in np.unique(labels)}
    return np.concatenate([orders.get(k, np.array([], int))[:samples] for k in sorted(set(wanted))])


if __name__ == "__main__":
    run(main, Options)
