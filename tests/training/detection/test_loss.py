"""Which places are taught which faces, and the loss, against plain formulations and closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from faceflax.training.detection.loss import assign, decode, loss, overlap, places

SIDE = 64
CENTRES, STRIDES = places(SIDE, SIDE)


def answers(boxes, landmarks, sure=8.0):
    """Outputs of a network that says at every place the nearest face, and is sure at those it would be taught."""
    outputs = np.zeros((len(CENTRES), 15), np.float32)
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    for i, (centre, stride) in enumerate(zip(CENTRES, STRIDES, strict=True)):
        k = int(np.linalg.norm(middles - centre, axis=1).argmin())
        outputs[i, 1:3] = (middles[k] - centre) / stride
        outputs[i, 3:5] = np.log(boxes[k, 2:] / stride)
        outputs[i, 5:] = ((landmarks[k] - centre) / stride).ravel()
    owner, _ = owners(outputs, boxes, [1] * len(boxes))
    outputs[:, 0] = np.where(owner >= 0, sure, -sure)
    return outputs


@pytest.fixture
def picture():
    boxes = np.array([[6, 6, 20, 26], [36, 30, 18, 22]], np.float32)
    relative = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
    return boxes, boxes[:, None, :2] + relative * boxes[:, None, 2:]


def test_places_lie_in_the_middle_of_their_squares():
    assert len(CENTRES) == 64 + 16 + 4
    for stride in (8, 16, 32):
        own = CENTRES[stride == STRIDES]
        assert {tuple(c) for c in own} == {
            (x + stride / 2, y + stride / 2) for x in range(0, SIDE, stride) for y in range(0, SIDE, stride)
        }
        assert (np.diff(own[:, 1]) >= 0).all()  # row by row


def test_decode_undoes_what_the_answers_say(picture):
    boxes, landmarks = picture
    logits, corners, points = decode(jnp.asarray(answers(boxes, landmarks)), jnp.asarray(CENTRES), jnp.asarray(STRIDES))
    sure = np.asarray(logits) > 0
    assert sure.sum() >= 2
    for corner, found in zip(np.asarray(corners)[sure], np.asarray(points)[sure], strict=True):
        k = int(np.abs(boxes[:, 0] - corner[0]).argmin())
        np.testing.assert_allclose(corner, [*boxes[k, :2], *(boxes[k, :2] + boxes[k, 2:])], atol=1e-4)
        np.testing.assert_allclose(found, landmarks[k], atol=1e-4)


def test_overlap_is_counted_in_pixels():
    rng = np.random.default_rng(0)
    low, size = rng.integers(0, 20, (2, 50, 2)), rng.integers(1, 20, (2, 50, 2))
    boxes, others = np.concatenate([low, low + size], -1)
    iou, distance = overlap(jnp.asarray(boxes, jnp.float32), jnp.asarray(others, jnp.float32))
    for row, (a, b) in enumerate(zip(boxes, others, strict=True)):
        canvas = np.zeros((2, 40, 40), bool)
        for mask, box in zip(canvas, (a, b), strict=True):
            mask[box[1] : box[3], box[0] : box[2]] = True
        expected = (canvas[0] & canvas[1]).sum() / (canvas[0] | canvas[1]).sum()
        assert iou[row] == pytest.approx(expected, abs=1e-5)
        around = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
        apart = (a[:2] + a[2:] - b[:2] - b[2:]) / 2
        assert distance[row] == pytest.approx(expected - (apart**2).sum() / (around**2).sum(), abs=1e-5)


def owners(outputs, boxes, kinds):
    logits, corners, _ = decode(jnp.asarray(outputs), jnp.asarray(CENTRES), jnp.asarray(STRIDES))
    faces = jnp.asarray(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
    found = jax.jit(assign)(logits, corners, faces, jnp.asarray(kinds), jnp.asarray(CENTRES), jnp.asarray(STRIDES))
    return [np.asarray(a) for a in found]


def test_every_face_is_given_places_near_it_and_no_other_kind_is(picture):
    boxes, _ = picture
    outputs = np.random.default_rng(0).normal(0, 0.5, (len(CENTRES), 15)).astype(np.float32)
    others = np.array([[0, 0, 64, 64], [0, 0, 0, 0]], np.float32)
    owner, quality = owners(outputs, np.concatenate([boxes, others]), [1, 1, -1, 0])
    assert set(owner) == {-1, 0, 1}
    assert (quality[owner < 0] == 0).all()
    for k, box in enumerate(boxes):
        own = CENTRES[owner == k]
        assert 1 <= len(own) <= 10
        assert (own > box[:2] - 1.5 * 32).all()
        assert (own < box[:2] + box[2:] + 1.5 * 32).all()


def test_a_small_face_between_places_is_given_one(picture):
    box = np.array([[14.5, 14.5, 3.0, 3.0]], np.float32)
    outputs = np.zeros((len(CENTRES), 15), np.float32)
    owner, _ = owners(outputs, box, [1])
    assert (owner == 0).sum() >= 1


def parts(outputs, boxes, landmarks, kinds, complete=True):
    value, details = jax.jit(loss)(
        jnp.asarray(outputs)[None],
        jnp.asarray(boxes)[None],
        jnp.asarray(landmarks)[None],
        jnp.asarray(kinds)[None],
        jnp.asarray([complete]),
        jnp.asarray(CENTRES),
        jnp.asarray(STRIDES),
    )
    return float(value), {name: float(part) for name, part in details.items()}


def test_the_right_answer_costs_next_to_nothing(picture):
    boxes, landmarks = picture
    value, details = parts(answers(boxes, landmarks, sure=12.0), boxes, landmarks, np.array([1, 1]))
    assert details["box"] < 1e-4
    assert details["landmarks"] < 1e-4
    assert details["overlap"] == pytest.approx(1, abs=1e-4)
    worse = answers(boxes + np.array([4, 0, 0, 0], np.float32), landmarks, sure=12.0)
    assert parts(worse, boxes, landmarks, np.array([1, 1]))[0] > value + 0.1


def test_unknown_landmarks_cost_nothing_and_leave_finite_gradients(picture):
    boxes, landmarks = picture
    outputs = np.random.default_rng(0).normal(0, 0.5, (len(CENTRES), 15)).astype(np.float32)
    unknown = np.full_like(landmarks, np.nan)
    assert parts(outputs, boxes, unknown, np.array([1, 1]))[1]["landmarks"] == 0

    def total(outputs):
        arrays = (boxes[None], unknown[None], np.array([[1, 1]]), np.array([True]), CENTRES, STRIDES)
        return loss(outputs[None], *map(jnp.asarray, arrays))[0]

    gradient = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(outputs)))
    assert np.isfinite(gradient).all()
    assert (gradient[:, 5:] == 0).all()
    assert (gradient[:, :5] != 0).any()


def test_a_face_that_does_not_count_is_not_held_against_the_network(picture):
    boxes, landmarks = picture
    outputs = answers(boxes, landmarks)
    within = ((boxes[:, None, :2] < CENTRES) & (boxes[:, None, :2] + boxes[:, None, 2:] > CENTRES)).all(-1)
    outputs[~within.any(0), 0] = -8
    counted = parts(outputs, boxes[:1], landmarks[:1], np.array([1]))[1]["score"]
    ignored = parts(outputs, boxes, landmarks, np.array([1, -1]))[1]["score"]
    assert counted > 1
    assert ignored < 0.05 * counted


def test_away_from_the_faces_that_are_known_others_may_be(picture):
    boxes, landmarks = picture
    outputs = answers(boxes, landmarks)
    away = np.abs(CENTRES - (boxes[0, :2] + boxes[0, 2:] / 2)).max(1) > 30
    outputs[~away & (outputs[:, 0] > 0) & (np.abs(CENTRES - 16).max(1) > 16), 0] = -8
    known = (boxes[:1], landmarks[:1], np.array([1]))
    assert parts(outputs, *known)[1]["score"] > 1
    assert parts(outputs, *known, complete=False)[1]["score"] < 0.05 * parts(outputs, *known)[1]["score"]


def teaching(boxes, landmarks, kinds, said):
    """The loss and its parts of an unsure network that a teacher tells the scores ``said``, and its own landmarks."""
    outputs = answers(boxes, landmarks, sure=0.5)
    taught = np.concatenate([said[:, None], np.tile(landmarks[0].ravel(), (len(CENTRES), 1))], 1)
    unknown = np.full_like(landmarks, np.nan)
    batch = (outputs, boxes, unknown, np.array(kinds), np.array(True))
    both = [loss(*(jnp.asarray(each)[None] for each in batch), CENTRES, STRIDES, t) for t in (None, taught[None])]
    return outputs, both


def test_a_teacher_that_was_not_asked_changes_nothing(picture):
    _, ((alone, _), (asked, _)) = teaching(*picture, [1, 1], np.full(len(CENTRES), np.nan))
    assert alone == asked


def test_a_teacher_has_half_a_say_at_taught_places_all_in_other_places_of_faces_and_none_elsewhere(picture):
    boxes, _ = picture
    said = np.random.default_rng(0).uniform(0.2, 0.9, len(CENTRES))
    outputs, (_, (_, parts)) = teaching(*picture, [1, 1], said)
    owner, quality = owners(outputs, boxes, [1, 1])
    expected = whole = 0.0
    for place, centre in enumerate(CENTRES):
        inside = any((centre > box[:2]).all() and (centre < box[:2] + box[2:]).all() for box in boxes)
        target = (quality[place] + said[place]) / 2 if owner[place] >= 0 else said[place] if inside else 0.0
        score = 1 / (1 + np.exp(-outputs[place, 0]))
        entropy = -target * np.log(score) - (1 - target) * np.log(1 - score)
        expected += (target or 0.75 * score**2) * entropy
        whole += target
    np.testing.assert_allclose(parts["score"], expected / max(whole, 1), rtol=1e-5)


def test_a_teacher_shows_landmarks_that_are_not_known_where_it_sees_the_face(picture):
    boxes, landmarks = picture
    moved = landmarks + 3  # of the labels, which are known here: the teacher's are not looked at
    sees, blind = np.full(len(CENTRES), 0.9), np.full(len(CENTRES), 0.1)
    costs = [teaching(boxes[:1], landmarks[:1], [1], said)[1][1][1]["landmarks"] for said in (sees, blind)]
    assert costs == [pytest.approx(0, abs=1e-6), 0]
    outputs = answers(boxes[:1], landmarks[:1], sure=0.5)
    taught = np.concatenate([sees[:, None], np.tile(moved[0].ravel(), (len(CENTRES), 1))], 1)
    for known, cost in ((landmarks[:1], 0.0), (np.full_like(landmarks[:1], np.nan), None)):
        batch = (outputs, boxes[:1], known, np.array([1]), np.array(True))
        _, parts = loss(*(jnp.asarray(each)[None] for each in batch), CENTRES, STRIDES, taught[None])
        if cost is None:
            off = 3 / np.sqrt(boxes[0, 2:].prod())
            cost = 10 * (5 * off**2 if off < 0.1 else off - 0.05)
        assert parts["landmarks"] == pytest.approx(cost, rel=1e-4, abs=1e-6)
