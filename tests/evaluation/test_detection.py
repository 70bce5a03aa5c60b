"""Counting found faces and false boxes, against counts by hand and by exhaustion."""

from __future__ import annotations

import numpy as np
import pytest

from faceflax.evaluation import detection

FACES = np.array([[0, 0, 20, 20], [50, 50, 20, 20], [90, 0, 10, 10]], np.float64)


def test_boxes_are_given_to_faces_the_best_first():
    boxes = np.array([[52, 50, 20, 20], [1, 0, 20, 20], [0, 1, 20, 20], [90, 0, 10, 10], [200, 0, 10, 10]])
    scores = np.array([0.5, 0.7, 0.9, 0.8, 0.6])
    matches = detection.match(boxes, scores, FACES, np.array([True, True, False]))
    assert matches.order.tolist() == [2, 3, 1, 4, 0]
    assert matches.faces.tolist() == [0, -2, -1, -1, 1]
    assert detection.share_found([matches], 0.0) == 1.0
    assert detection.share_found([matches], 0.6) == 0.5
    assert detection.false_boxes([matches], 0.65) == 1.0


def test_the_threshold_allows_no_more_false_boxes_than_asked():
    rng = np.random.default_rng(0)
    images = []
    for _ in range(40):
        boxes = np.concatenate([FACES + rng.normal(0, 2, FACES.shape), rng.uniform(100, 200, (4, 4))])
        images.append(detection.match(boxes, rng.uniform(size=7), FACES, np.ones(3, bool)))
    scores = np.unique(np.concatenate([m.scores for m in images]))
    for allowed in (0, 0.05, 0.5, 1, 10):
        chosen = detection.threshold_at(images, allowed)
        permitted = [s for s in scores if detection.false_boxes(images, s) <= allowed + 1e-9]
        assert chosen == min(permitted)
        assert detection.recall_at(images, allowed) == max(detection.share_found(images, s) for s in permitted)


def test_no_box_and_no_face_are_no_fault():
    nothing = detection.match(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 4)), np.zeros(0, bool))
    assert detection.threshold_at([nothing], 0.1) == np.inf
    assert np.isnan(detection.recall_at([nothing], 0.1))
    missed = detection.match(np.zeros((0, 4)), np.zeros(0), FACES, np.ones(3, bool))
    assert detection.recall_at([missed, nothing], 0.1) == 0


def test_landmarks_are_measured_in_eye_distances():
    known = np.array([[[10, 10], [30, 10], [20, 20], [12, 30], [28, 30]]], np.float64)
    assert detection.landmark_error(known + np.array([3, 4]), known) == pytest.approx([0.25])
