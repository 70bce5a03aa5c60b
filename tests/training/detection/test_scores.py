"""Scores fitted to whole photographs: the regression against scikit-learn's, and what the changed layer says."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from faceflax import models
from faceflax.data.scenes import Scene
from faceflax.data.synthetic import render_faces
from faceflax.inference.detection import Detector
from faceflax.inference.detector_folding import fold_detector
from faceflax.models.face_detector import FaceDetector
from faceflax.training.detection import scores
from faceflax.training.detection.loss import places


@pytest.fixture(scope="module")
def detector():
    """A network that says of many places that they may be a face."""
    variables = models.init(FaceDetector(), jax.random.key(0), image_size=64)
    for stride in (8, 16, 32):
        kernel = variables["params"][f"output{stride}"]["kernel"]
        variables["params"][f"output{stride}"]["kernel"] = kernel * np.where(np.arange(15) == 0, 8.0, 1.0)[None]
        variables["params"][f"output{stride}"]["bias"] = jnp.zeros(15).at[3:5].set(1.5)
    return variables


@pytest.fixture(scope="module")
def scenes():
    """Photographs of one face on a plain ground."""
    rng = np.random.default_rng(0)
    made = []
    for face in render_faces(12, seed=1, image_size=40).images:
        image = np.full((100, 120, 3), rng.integers(40, 200, 3), np.uint8)
        x, y = rng.integers(0, 60, 2)
        image[y : y + 40, x : x + 40] = np.reshape(face, (40, 40, 1))
        box = np.array([[x + 4, y + 3, 32, 36]], np.float32)
        made.append(Scene(image, box, np.full((1, 5, 2), np.nan, np.float32), np.zeros(1, bool)))
    return {"wider": made}


def searched(variables, scenes, counts=None):
    detector = Detector(fold_detector(flatten_dict(dict(variables), sep="/")))
    return scores.search(detector, scenes, counts or [1.0] * len(scenes))


def test_the_regression_is_scikit_learns_drawn_to_the_score_as_it_was():
    rng, seen = np.random.default_rng(0), [*scores.SEEN]
    outputs = rng.normal(size=(4000, 15))
    faces = rng.random(4000) < expit(0.5 * outputs[:, 0] - outputs[:, 4] + 0.3)
    counts = rng.choice([1.0, 3.0], 4000)
    weights, constant = scores.fit(outputs, faces, counts)
    other = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(outputs[:, seen], faces, counts)
    np.testing.assert_allclose(weights[seen], other.coef_[0], atol=2e-3)
    np.testing.assert_allclose(constant, other.intercept_[0], atol=2e-3)
    assert (np.delete(weights, seen) == 0).all()

    few, some, often = outputs[:3], faces[:3], counts[:3]
    weights, constant = scores.fit(few, some, often)
    slope = np.append(few[:, seen], np.ones((3, 1)), 1).T @ (often * (expit(few @ weights + constant) - some))
    drawn = np.append(weights[seen], constant) - np.eye(len(seen) + 1)[0]
    np.testing.assert_allclose(slope, -2 * scores.RIDGE * drawn, atol=1e-3)  # none is left


def test_boxes_and_landmarks_stay_and_scores_become_likelier(detector, scenes):
    fitted = scores.fit_scores(detector, scenes)
    images = jnp.asarray(np.stack([scene.image[:96, :96] for scene in scenes["wider"]]) / 127.5 - 1, jnp.float32)
    before, after = (np.asarray(FaceDetector().apply(v, images)[0]) for v in (detector, fitted))
    np.testing.assert_array_equal(before[..., 1:], after[..., 1:])
    found = searched(detector, scenes["wider"])
    assert 0 < found.faces.sum() < len(found.faces)
    _, strides = places(96, 96)
    now = np.empty(len(found.faces))
    for stride in (8, 16, 32):
        weights, constant = scores.fit(*(each[found.strides == stride] for each in (found.outputs, *found[2:])))
        expected = before[:, strides == stride] @ weights + constant
        np.testing.assert_allclose(after[:, strides == stride, 0], expected, rtol=1e-4, atol=1e-4)
        now[found.strides == stride] = found.outputs[found.strides == stride] @ weights + constant

    def surprise(logits):
        return np.mean(np.logaddexp(0, logits) - logits * found.faces)

    assert surprise(now) < surprise(found.outputs[:, 0])


def test_boxes_count_as_much_as_their_pictures(detector, scenes):
    first, second = scenes["wider"][:6], scenes["wider"][6:]
    parts, whole = (
        [searched(detector, each) for each in (first, second)],
        searched(detector, [*first, *second], [2.0] * 6 + [7.0] * 6),
    )
    for own, both in zip(zip(*parts, strict=True), whole, strict=True):
        if both is not whole.counts:
            np.testing.assert_array_equal(np.concatenate(own), both)
    np.testing.assert_array_equal(whole.counts, [2.0] * len(parts[0].faces) + [7.0] * len(parts[1].faces))


def test_false_boxes_of_pictures_without_a_face_lower_the_scores(detector, scenes):
    nobody = np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, bool)
    empty = [Scene(scene.image[:, ::-1], *nobody) for scene in scenes["wider"]]
    images = jnp.asarray(np.stack([scene.image[:96, :96] for scene in empty]) / 127.5 - 1, jnp.float32)
    without, among, with_crops = (
        np.asarray(FaceDetector().apply(v, images)[0])[..., 0].max()
        for v in (
            scores.fit_scores(detector, scenes),
            scores.fit_scores(detector, scenes | {"noface": empty}),
            scores.fit_scores(detector, scenes, empty),
        )
    )
    assert among < with_crops < without


def test_boxes_that_count_neither_way_are_not_learnt_from(detector, scenes):
    whole = searched(detector, scenes["wider"])
    left = searched(detector, [Scene(s.image, s.boxes, s.landmarks, np.ones(1, bool)) for s in scenes["wider"]])
    assert not left.faces.any()
    assert len(left.faces) < len(whole.faces)


def test_all_that_is_not_of_the_last_layers_scores_is_as_it_was(detector, scenes):
    before, after = (flatten_dict(dict(v), sep="/") for v in (detector, scores.fit_scores(detector, scenes)))
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed <= {f"params/output{stride}/{kind}" for stride in (8, 16, 32) for kind in ("kernel", "bias")}
    assert changed
