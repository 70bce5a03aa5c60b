"""faceflax, by its public names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

import faceflax
import interpret
from experiments.benchmarks import shared
from faceflax.faces.finding import FaceFinder
from faceflax.faces.haar import HaarDetector
from faceflax.faces.tracking import Track
from faceflax.faces.video import VideoAnalyzer
from faceflax.live.overlay import SaliencyOverlay
from faceflax.media.drawing import Overlay, draw_faces
from faceflax.pipeline import pipeline
from faceflax.training.config import Precision
from faceflax.training.step import adam, create_state, in_batches, make_eval_step, make_train_step
from faceflax.training.targets import cross_entropy, make_targets

Run = Callable[[], np.ndarray]


def _network(arch: str) -> tuple[Any, dict[str, Any]]:
    variables = jax.tree.map(jnp.asarray, unflatten_dict(shared.tensors(arch), sep="/"))
    return faceflax.create(arch, shared.CLASSES), variables


def forward(arch: str, batch: int) -> Run:
    """Logits ``[batch, 7]``."""
    return partial(faceflax.compile(*_network(arch)), shared.images(batch))


def train(arch: str, batch: int, precision: Precision = "float32") -> Run:
    """The loss of one more train step; its augmentation is the identity, which the peers do not have."""
    images, labels = map(jnp.asarray, shared.training_set(8 * batch))
    return partial(next, _steps(arch, images, labels, batch, precision))


def _steps(
    arch: str, images: jax.Array, labels: jax.Array, batch: int, precision: Precision = "float32"
) -> Iterator[np.ndarray]:
    model, variables = _network(arch)
    optimizer = adam(shared.WEIGHT_DECAY)
    step = make_train_step(
        model,
        optimizer,
        augment=lambda key, images: images,
        mix=lambda key, images, targets: (images, targets),
        loss=cross_entropy,
        key=jax.random.key(0),
        precision=precision,
    )
    state = create_state(variables, optimizer)
    targets = jnp.asarray(make_targets(np.asarray(labels), shared.CLASSES, smoothing=shared.LABEL_SMOOTHING))
    batches = jnp.asarray(shared.order(len(images), batch))
    rates = jnp.full(len(batches), shared.LEARNING_RATE)
    while True:
        state, metrics = jax.block_until_ready(step(state, images, targets, batches, rates))
        yield np.asarray(metrics["loss"])


def train_and_evaluate(arch: str) -> None:
    """A few train steps on as many images as FER-2013 has, then an evaluation."""
    images, labels = map(jnp.asarray, shared.training_set(shared.TRAINING_IMAGES))
    steps = _steps(arch, images, labels, 64)
    for _ in range(5):
        next(steps)
    model, variables = _network(arch)
    validation = slice(shared.VALIDATION_IMAGES)
    make_eval_step(model)(variables, in_batches(images[validation], labels[validation]))


def guided(targets: list[int]) -> Run:
    """Guided backprop of one image for each target, ``[targets, 64, 64, 1]``.

    Mapped over targets, as :mod:`interpret.attribution` advises: the forward pass is computed once for all of them.
    """
    method = partial(interpret.guided_backprop, *_network("mini_xception"))
    several = jax.jit(lambda image, targets: jax.vmap(partial(method, image))(targets)[:, 0])
    run = jax.jit(method) if len(targets) == 1 else several
    image = shared.images(1)
    return lambda: np.asarray(run(image, np.asarray(targets)))


def _resnet18(variables: dict[str, jax.Array], images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    def convolve(name: str, x: jax.Array, strides: int = 1) -> jax.Array:
        kernel = variables[f"{name}/kernel"]
        padding = [(kernel.shape[0] // 2,) * 2] * 2
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=layout)
        return y + variables[f"{name}/bias"][None, None, None]

    x = jax.nn.relu(convolve("stem", images, 2))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    features = {}
    for i, (_, strides) in enumerate(shared.RESNET_BLOCKS):
        name = f"block{i}"
        y = convolve(f"{name}/conv2", jax.nn.relu(convolve(f"{name}/conv1", x, strides)))
        x = convolve(f"{name}/shortcut", x, strides) if f"{name}/shortcut/kernel" in variables else x
        features[name] = x = jax.nn.relu(x + y)
    return x.mean((1, 2)) @ variables["head/kernel"][0, 0] + variables["head/bias"][None], features


def attribution(name: str) -> Run:
    """One method's map of one image of 224x224, of a ResNet-18."""
    model, variables = interpret.wrap(_resnet18, jax.tree.map(jnp.asarray, shared.resnet18()))
    method, options = getattr(interpret, name), dict(shared.ATTRIBUTION[name])
    if name == "grad_cam":
        options |= {"relu": False, "enlarge": False}
    image = jnp.asarray(shared.images(1, 224, 3))
    return lambda: np.asarray(method(model, variables, image, 3, layer=shared.LAYER, **options))


def live(video: str | None, draw: Overlay = draw_faces) -> Run:
    """How many faces there are in the next frame, which is analysed as the live loop does it, and drawn on."""
    analyzer, frames = VideoAnalyzer(), cycle(shared.video_frames(video))

    def run() -> np.ndarray:
        frame = next(frames)
        faces = analyzer(frame)
        draw(frame, faces)
        return np.asarray(len(faces))

    return run


def explained(video: str | None) -> Run:
    """The same, with what each face's emotion is read from beside the face."""
    return live(video, _saliency())


def overlapping(video: str | None, draw: Overlay = draw_faces) -> Run:
    """How many faces there are in the next frame, which went through the live loop's stages while others did."""
    return partial(next, _overlapping(cycle(shared.video_frames(video)), draw))


def overlapping_explained(video: str | None) -> Run:
    """The same, with what each face's emotion is read from beside the face."""
    return overlapping(video, _saliency())


def _saliency() -> SaliencyOverlay:
    weights = "mini_xception-fer2013"
    loaded = faceflax.load(weights)
    info = loaded.info
    explain = interpret.explainer(*loaded)
    explain.warm_up(info.image_size)
    return SaliencyOverlay(explain, info.crop_margin, info.image_size)


def _overlapping(frames: Iterator[Any], draw: Overlay) -> Iterator[np.ndarray]:
    analyzer = VideoAnalyzer()
    stages: list[Callable[[Any], Any]] = [
        lambda frame: (frame, analyzer.locate(frame)),
        lambda found: (found[0], analyzer.read(*found)),
        lambda faces: (draw(*faces), faces[1]),
    ]
    with pipeline(frames, stages) as through:
        for _, faces in through:
            yield np.asarray(len(faces))


def find(video: str | None) -> Run:
    """How many faces are found in the next frame and followed: the live loop's first part."""
    finder, frames = FaceFinder(), cycle(shared.video_frames(video))
    return lambda: np.asarray(len(finder(next(frames))))


def found(video: str | None) -> Run:
    """In how many frames a face is found: the live loop's first part, and recall where each frame has one."""
    finder = FaceFinder()
    number = sum(len(finder(frame)) > 0 for frame in shared.video_frames(video))
    return lambda: np.asarray(number)


def found_by_haar(video: str | None) -> Run:
    """In how many frames OpenCV's Haar cascade, factor 1.1 and 5 neighbours, finds a face in all of the frame."""
    detector = HaarDetector(1.1, min_confidence=-np.inf, max_side=None)
    number = sum(len(detector(frame)) > 0 for frame in shared.video_frames(video))
    return lambda: np.asarray(number)


def _found(video: str | None) -> tuple[VideoAnalyzer, Iterator[tuple[np.ndarray, list[Track]]]]:
    frames = shared.video_frames(video)
    finder = FaceFinder()
    return VideoAnalyzer(), cycle([(frame, finder(frame)) for frame in frames])


def read(video: str | None) -> Run:
    """How many faces the networks label in the next frame: the second part."""
    analyzer, frames = _found(video)
    return lambda: np.asarray(len(analyzer.read(*next(frames))))


def draw(video: str | None) -> Run:
    """The next frame's mean with its faces drawn: the last part."""
    analyzer, frames = _found(video)
    read = cycle(
        [(frame, analyzer.read(frame, found)) for frame, found in islice(frames, len(shared.video_frames(video)))]
    )
    return lambda: draw_faces(*next(read))[0, 0]


def analyze(video: str | None) -> Run:
    """How many faces there are in the next frame, as an image by itself."""
    analyzer, frames = faceflax.FaceAnalyzer(preset="fast"), cycle(shared.video_frames(video))
    return lambda: np.asarray(len(analyzer(next(frames))))
