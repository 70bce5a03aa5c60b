"""Do dark glasses make a face "angry" (figure 8.8)? Frames are drawn on the test faces, where the eyes are.

Command: ``python -m experiments.paper --only glasses`` (about 2 minutes).

The eyes' places come from OpenCV's eye cascade, or are the median place where it does not find both. A frame is two
rings, a bridge and the beginnings of two temples, nearly black. The controls are the same pixels moved up to the
forehead or down to the mouth, so that colour, shape and area are the same. PrivateTest; nothing is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from scipy.special import softmax

from experiments.paper import eyes, intervals
from experiments.paper.record import Picture, Result, Table, above
from experiments.paper.study import Images, Network, Study
from faceflax.evaluation import predict_logits
from faceflax.inference.compiled import BatchFunction
from faceflax.opencv import cv2
from faceflax.preprocessing import normalize
from interpret import guided_backprop, metrics

TITLE = "5. Glasses"
CLAIM = 'people who wear glasses, and dark ones above all, are mistaken for "angry", as if frames were frowns.'
NEEDS = (("mini_xception", "emotion"),)
CONTROLS = {"forehead": 0.12, "mouth": 0.78}
"""Row of the middle of a moved frame, as a share of the side."""


@dataclass(frozen=True)
class Config:
    """What a frame looks like; lengths in shares of the distance between the eyes."""

    radius: tuple[float, float] = (0.38, 0.27)
    thickness: float = 0.09
    luma: int = 25
    faces: int = 100_000
    """Test faces at most."""
    batch: int = 128
    """Faces explained together."""


FULL = Config()
QUICK = Config(faces=42, batch=7)


def run(study: Study, config: Config) -> Result:
    """Draws, predicts and compares with the bare faces."""
    network = study.network("mini_xception", "emotion")
    faces = study.faces("emotion", "test", network.weights.image_size)
    images, labels, names = faces.images[: config.faces], faces.labels[: config.faces], faces.names
    centres, seen = eyes.find(study, images)
    frames = np.stack([frame_mask(pair, images.shape[1], config) for pair in centres])
    masks = {"glasses": frames} | {place: move(frames, row) for place, row in CONTROLS.items()}
    drawn = {name: np.where(mask[..., None], np.uint8(config.luma), images) for name, mask in masks.items()}

    def predict(faces: Images) -> Float[np.ndarray, "n classes"]:
        found = predict_logits(network.model, network.variables, faces).astype(np.float64)
        return softmax(found / network.weights.temperature, axis=1)

    bare = predict(images)
    after = {name: predict(changed) for name, changed in drawn.items()}
    correct = {name: p.argmax(1) == labels for name, p in {"bare": bare, **after}.items()}
    angry = names.index("angry")
    not_angry = labels != angry

    rows = []
    for i, name in enumerate(names):
        changes = (intervals.mean("", p[:, i] - bare[:, i], "points") for p in after.values())
        rows.append((f"probability of {name}", *map(str, changes)))
    rows.append(
        (
            "accuracy",
            *(str(intervals.mean("", correct[name].astype(float) - correct["bare"], "points")) for name in after),
        )
    )
    taken = {name: (p.argmax(1) == angry).astype(float) - (bare.argmax(1) == angry) for name, p in after.items()}
    rows.append(
        (
            "taken for angry, of the others",
            *(str(intervals.mean("", change[not_angry], "points")) for change in taken.values()),
        )
    )
    accuracy = intervals.share("bare faces", correct["bare"])
    rise = intervals.mean("change of the mean probability", after["glasses"][:, angry] - bare[:, angry], "points")
    rise_seen = intervals.mean(
        'change of "angry" where both eyes were found', (after["glasses"] - bare)[seen, angry], "points"
    )
    verdicts = [above('Glasses raise the probability of "angry"', rise, 0)]
    for place in CONTROLS:
        number = intervals.mean("difference", after["glasses"][:, angry] - after[place][:, angry], "points")
        verdicts.append(above(f'Glasses raise "angry" more than the same shape at the {place}', number, 0))

    inside = {
        name: _attention(network, seen_images, frames, config.batch)
        for name, seen_images in (("bare", images), ("glasses", drawn["glasses"]))
    }
    shares = [intervals.mean(f"attribution on the frame's pixels, {name}", v, "%") for name, v in inside.items()]
    extra = intervals.mean("with the frame less without", inside["glasses"] - inside["bare"], "points")
    verdicts.append(above("The network looks more at these pixels when a frame is on them", extra, 0))
    return Result(
        verdicts=tuple(verdicts),
        tables=(
            Table(
                f"Changes against the bare faces, {len(images):,} of {faces.source} (bare accuracy {accuracy})",
                ("", "glasses", *(f"the same at the {place}" for place in CONTROLS)),
                tuple(rows),
            ),
            Table.of("Where the network looks, and faces whose eyes were found", [*shares, extra, rise_seen]),
        ),
        pictures=(
            Picture.of(_examples(images, drawn), "Faces bare, with drawn glasses and with the controls"),
            Picture.of(_changes(names, bare, after), "Change of each class's mean probability by what was drawn"),
        ),
        remarks=(
            f"Both eyes were found in {seen.mean():.1%} of the faces; a frame covers {frames.mean():.1%} of an image. "
            "Attribution is the magnitude of guided backprop of the last convolution's highest neuron. Drawn frames "
            "are no real glasses: they have no lenses and no shadows, and are put on faces that may wear some already.",
        ),
    )


def frame_mask(pair: Float[np.ndarray, "2 2"], size: int, config: Config) -> Bool[np.ndarray, "size size"]:
    """The pixels of a frame around two eyes.

    Args:
        pair: the eyes' centres, x and y in pixels, the left of the image first.
        size: the image's side.
        config: the frame's measures.
    """
    scale = 8  # drawn large and reduced, so that a thin ring keeps its width on average
    left, right = pair * scale
    distance = float(np.hypot(*(right - left)))
    angle = float(np.degrees(np.arctan2(*(right - left)[::-1])))
    width = max(1, round(config.thickness * distance))
    across = (right - left) / distance
    radius = tuple(round(r * distance) for r in config.radius)
    canvas = np.zeros((size * scale, size * scale), np.uint8)

    def point(xy: Float[np.ndarray, " 2"]) -> tuple[int, int]:
        return round(float(xy[0])), round(float(xy[1]))

    for centre in (left, right):
        cv2.ellipse(canvas, point(centre), radius, angle, 0, 360, 255, width)
    cv2.line(canvas, point(left + across * radius[0]), point(right - across * radius[0]), 255, width)
    for centre, sign in ((left, -1), (right, 1)):
        start = centre + sign * across * radius[0]
        cv2.line(canvas, point(start), point(start + sign * across * 0.25 * distance), 255, width)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA) > 96


def move(masks: Bool[np.ndarray, "n size size"], row: float) -> Bool[np.ndarray, "n size size"]:
    """Shifts each mask up or down until its middle is at ``row``, a share of the side, or as far as it stays whole."""
    size = masks.shape[1]
    moved = np.empty_like(masks)
    for i, mask in enumerate(masks):
        used = np.flatnonzero(mask.any(1))
        shift = round(row * size - (used[0] + used[-1]) / 2)
        moved[i] = np.roll(mask, int(np.clip(shift, -used[0], size - 1 - used[-1])), axis=0)
    return moved


def _attention(network: Network, images: Images, masks: Bool[np.ndarray, "n size size"], batch: int) -> np.ndarray:
    """For each face, the share of the attribution that lies in its mask."""

    def inside(images: jax.Array, masks: jax.Array) -> jax.Array:
        maps = guided_backprop(network.model, network.variables, normalize(images))
        return metrics.energy_inside(metrics.importance(maps, signed=False), masks)

    return BatchFunction(inside, sizes=(batch,))(images, masks)


def _examples(images: Images, drawn: dict[str, Images], count: int = 6) -> Figure:
    figure = Figure((1.2 * count + 0.8, 1.25 * (1 + len(drawn))), layout="constrained")
    grid = figure.subplots(1 + len(drawn), count, squeeze=False)
    for row, (name, shown) in zip(grid, {"bare": images, **drawn}.items(), strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axes, image in zip(row, shown, strict=False):
            axes.imshow(image[:, :, 0], cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
    return figure


def _changes(names: tuple[str, ...], bare: np.ndarray, after: dict[str, np.ndarray]) -> Figure:
    figure = Figure((7, 3), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(after)
    colours = ("#2166ac", "#888888", "#bbbbbb")
    for i, ((name, p), colour) in enumerate(zip(after.items(), colours, strict=True)):
        found = [intervals.mean("", p[:, c] - bare[:, c]) for c in range(len(names))]
        values = 100 * np.array([number.value for number in found])
        errors = np.abs(100 * np.array([[n.low, n.high] for n in found]).T - values)
        place = np.arange(len(names)) + (i - (len(after) - 1) / 2) * width
        axes.bar(place, values, width, yerr=errors, color=colour, label=name, error_kw={"linewidth": 1, "capsize": 2})
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("change of mean probability\n(percentage points, 95%)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
