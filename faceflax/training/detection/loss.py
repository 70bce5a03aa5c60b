"""Which places of a detector's maps are taught which faces, and how far off they are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from faceflax.models.architectures import DETECTOR_STRIDES

Boxes = Float[Array, "places 4"]
"""Left, top, right, bottom in pixels."""

CANDIDATES = 10
"""How many of the best overlaps are summed to tell how many places a face is given."""
RADIUS = 1.5
"""Places within this many strides of a face's centre may be given to it."""
AROUND = 1.6
"""Where only some faces of an image are known, places in a box so many times theirs are taught all the same."""
SEEN, FAINT = 0.3, 0.1
"""A teacher's score of a face whose landmarks it shows, and one that is as good as none."""
BOX_WEIGHT, LANDMARK_WEIGHT = 3.0, 4.0
"""Of the parts of the loss, beside 1 of the score."""


def places(height: int, width: int) -> tuple[Float[np.ndarray, "places 2"], Float[np.ndarray, " places"]]:
    """Returns the centres x, y and the strides of all places, in the order of the network's output.

    Example:
        >>> centres, strides = places(32, 64)
        >>> centres[:2].tolist(), strides[[0, 32, 40]].tolist()
        ([[4.0, 4.0], [12.0, 4.0]], [8.0, 16.0, 32.0])
    """
    centres, strides = [], []
    for stride in DETECTOR_STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        centres.append((np.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * stride)
        strides.append(np.full(rows.size, float(stride)))
    return np.concatenate(centres).astype(np.float32), np.concatenate(strides).astype(np.float32)


def decode(
    outputs: Float[Array, "*batch places 15"], centres: Float[Array, "places 2"], strides: Float[Array, " places"]
) -> tuple[Float[Array, "*batch places"], Float[Array, "*batch places 4"], Float[Array, "*batch places 5 2"]]:
    """Makes scores' logits, boxes (left, top, right, bottom) and landmarks, in pixels, of what a network says."""
    around = (1,) * (outputs.ndim - 2)
    scale, centres = strides.reshape(*around, -1, 1), centres.reshape(*around, -1, 2)
    middle = centres + outputs[..., 1:3] * scale
    half = scale * jnp.exp(jnp.clip(outputs[..., 3:5], -4, 6)) / 2
    points = centres[..., None, :] + outputs[..., 5:].reshape(*outputs.shape[:-1], 5, 2) * scale[..., None]
    return outputs[..., 0], jnp.concatenate([middle - half, middle + half], -1), points


def overlap(boxes: Float[Array, "*shape 4"], others: Float[Array, "*shape 4"]) -> tuple[Array, Array]:
    """Returns intersection over union of boxes with others (they broadcast), and the same less what :math:`DIoU` takes.

    Zheng et al., "Distance-IoU Loss", AAAI 2020.
    """
    low, high = jnp.maximum(boxes[..., :2], others[..., :2]), jnp.minimum(boxes[..., 2:], others[..., 2:])
    common = jnp.maximum(high - low, 0).prod(-1)
    area = lambda b: jnp.maximum(b[..., 2:] - b[..., :2], 0).prod(-1)  # noqa: E731
    iou = common / jnp.maximum(area(boxes) + area(others) - common, 1e-6)
    around = jnp.maximum(boxes[..., 2:], others[..., 2:]) - jnp.minimum(boxes[..., :2], others[..., :2])
    apart = (boxes[..., :2] + boxes[..., 2:] - others[..., :2] - others[..., 2:]) / 2
    return iou, iou - jnp.square(apart).sum(-1) / jnp.maximum(jnp.square(around).sum(-1), 1e-6)


def assign(
    logits: Float[Array, " places"],
    boxes: Boxes,
    faces: Float[Array, "faces 4"],
    kinds: Int[Array, " faces"],
    centres: Float[Array, "places 2"],
    strides: Float[Array, " places"],
) -> tuple[Int[Array, " places"], Float[Array, " places"]]:
    """Gives places to faces by what the network says already.

    Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (SimOTA; arXiv:2107.08430): a face is given as many of the places
    near its centre as the sum of its best overlaps says, those of the lowest cost; a place that two faces want goes to
    the one where it costs less.

    Returns:
        The face of each place, -1 for none; and the overlap of the place's box with it.
    """
    iou, _ = overlap(boxes[None], faces[:, None])
    middle = (faces[:, :2] + faces[:, 2:]) / 2
    inside = ((centres[None] > faces[:, None, :2]) & (centres[None] < faces[:, None, 2:])).all(-1)
    near = (jnp.abs(centres[None] - middle[:, None]) < RADIUS * strides[None, :, None]).all(-1)
    real = (kinds == 1)[:, None]
    score = jax.nn.sigmoid(logits)
    certainty = -jnp.log(jnp.clip(score, 1e-6, 1))[None]
    cost = certainty + 3 * -jnp.log(jnp.clip(iou, 1e-6, 1)) + 1e3 * ~(inside & near) + 1e6 * ~((inside | near) & real)
    best, _ = lax.top_k(jnp.where((inside | near) & real, iou, 0), CANDIDATES)
    count = jnp.clip(best.sum(-1).astype(jnp.int32), 1, CANDIDATES)
    cheapest, _ = lax.top_k(-cost, CANDIDATES)
    limit = -jnp.take_along_axis(cheapest, count[:, None] - 1, 1)
    wanted = (cost <= limit) & (cost < 1e5)
    owner = jnp.argmin(jnp.where(wanted, cost, jnp.inf), 0)
    owned = wanted.any(0)
    return jnp.where(owned, owner, -1), jnp.where(owned, jnp.take_along_axis(iou, owner[None], 0)[0], 0)


def loss(
    outputs: Float[Array, "batch places 15"],
    boxes: Float[Array, "batch faces 4"],
    landmarks: Float[Array, "batch faces 5 2"],
    kinds: Int[Array, "batch faces"],
    complete: Bool[Array, " batch"],
    centres: Float[Array, "places 2"],
    strides: Float[Array, " places"],
    taught: Float[Array, "batch places 11"] | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Computes the loss of a batch, and its parts.

    The score is taught the overlap of its box (Zhang et al., "VarifocalNet", CVPR 2021), so that it ranks; boxes by
    distance-IoU, landmarks by the Huber loss of their distance in shares of the face. Places in faces that count
    neither way are not taught that they are none.

    Args:
        outputs: of the network.
        boxes: x, y, width, height in pixels.
        landmarks: x, y in pixels; NaN where they are not known.
        kinds: 1 a face, -1 one that counts neither way, 0 none.
        complete: every face of the image is in ``boxes``; where not, places away from those that are count neither way.
        centres: of the places.
        strides: of the places.
        taught: the score that a teacher gives each place, and its landmarks in pixels; NaN where it was not asked.
            It has half a say in the score of a place that is taught a face, the say in the other places of known faces,
            none elsewhere; and it shows the landmarks of the faces it sees where they are not known.
    """
    logits, found, points = decode(outputs, centres, strides)
    corners = jnp.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)
    owner, quality = lax.stop_gradient(
        jax.vmap(assign, (0, 0, 0, 0, None, None))(logits, found, corners, kinds, centres, strides)
    )
    owned = owner >= 0
    face = jnp.maximum(owner, 0)
    of = lambda values: jax.vmap(lambda v, i: v[i])(values, face)  # noqa: E731
    total = jnp.maximum(owned.sum(), 1)

    at = centres[None, None]
    doubtful = (corners[:, :, None, :2] < at) & (corners[:, :, None, 2:] > at)
    doubtful = (doubtful.all(-1) & (kinds == -1)[..., None]).any(1)
    reach = AROUND / 2 * boxes[..., 2:]
    middle = boxes[..., :2] + boxes[..., 2:] / 2
    around = (jnp.abs(at - middle[:, :, None]) < reach[:, :, None]).all(-1) & (kinds != 0)[..., None]
    doubtful |= ~complete[:, None] & ~around.any(1)
    target = jnp.where(owned, quality, 0)
    wanted = of(landmarks)
    if taught is not None:
        asked, given = jnp.isfinite(taught[..., 0]), jnp.nan_to_num(taught[..., 0])
        inside = (corners[:, :, None, :2] < at) & (corners[:, :, None, 2:] > at)
        inside = (inside.all(-1) & (kinds == 1)[..., None]).any(1)
        target = jnp.where(asked & owned, (target + given) / 2, jnp.where(asked & inside, given, target))
        shown = (asked & owned & (given > SEEN))[..., None, None] & ~jnp.isfinite(wanted).all((-1, -2), keepdims=True)
        wanted = jnp.where(shown, taught[..., 1:].reshape(*wanted.shape), wanted)
    score = jax.nn.sigmoid(lax.stop_gradient(logits))
    weight = jnp.where(owned | (target > FAINT), target, 0.75 * jnp.square(score) * ~doubtful)
    entropy = jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    score_loss = (weight * entropy).sum() / jnp.maximum(target.sum(), 1)

    _, distance = overlap(found, of(corners))
    box_loss = (owned * (1 - distance)).sum() / total

    known = owned & jnp.isfinite(wanted).all((-1, -2))
    size = jnp.sqrt(jnp.maximum(of(boxes)[..., 2:].prod(-1), 1))[..., None, None]
    off = jnp.where(known[..., None, None], (points - jnp.nan_to_num(wanted)) / size, 0)
    huber = jnp.where(jnp.abs(off) < 0.1, 5 * jnp.square(off), jnp.abs(off) - 0.05)
    landmark_loss = (known * huber.sum((-1, -2))).sum() / jnp.maximum(known.sum(), 1)

    parts = {"score": score_loss, "box": box_loss, "landmarks": landmark_loss, "overlap": quality.sum() / total}
    return score_loss + BOX_WEIGHT * box_loss + LANDMARK_WEIGHT * landmark_loss, parts
