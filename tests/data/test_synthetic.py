import itertools

import cv2
import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from faceflax.data.synthetic import render_face, render_faces
from faceflax.errors import FaceflaxError
from faceflax.labels import EMOTIONS, GENDERS


@pytest.fixture(scope="module")
def faces():
    return render_faces(count=140, seed=5)


def test_shapes_and_types(faces):
    assert (faces.images.shape, faces.images.dtype) == ((140, 64, 64, 1), np.uint8)
    assert (faces.expression_masks.shape, faces.expression_masks.dtype) == ((140, 64, 64), bool)
    assert (faces.emotions.shape, faces.emotions.dtype) == ((140,), np.int32)
    assert (faces.genders.shape, faces.genders.dtype) == ((140,), np.int32)


def test_a_face_does_not_depend_on_the_count(faces):
    fewer = render_faces(count=17, seed=5)
    for name in ("images", "emotions", "genders", "expression_masks"):
        np.testing.assert_array_equal(getattr(fewer, name), getattr(faces, name)[:17])


def test_seeds_draw_other_faces_and_other_labels(faces):
    other = render_faces(count=140, seed=6)
    assert (other.images != faces.images).any((1, 2, 3)).all()
    assert (other.emotions != faces.emotions).any()


def test_labels_are_balanced_and_in_random_order(faces):
    pairs = np.bincount(faces.emotions * len(GENDERS) + faces.genders)
    np.testing.assert_array_equal(pairs, 140 // 14)
    assert (faces.emotions[:14] != faces.emotions[14:28]).any()


@pytest.mark.parametrize("image_size", [32, 64, 97])
def test_expressions_differ_only_within_their_masks(image_size):
    for seed, gender in itertools.product(range(8), range(len(GENDERS))):
        drawn = [render_face(seed, emotion, gender, image_size) for emotion in range(len(EMOTIONS))]
        for (one, one_mask), (other, other_mask) in itertools.combinations(drawn, 2):
            different = one != other
            assert different[one_mask | other_mask].any()
            assert not different[~(one_mask | other_mask)].any()


def test_expression_changes_much_of_what_its_mask_covers():
    # A mask that covered the whole image would hold everything, and say nothing.
    drawn = [[render_face(seed, emotion, 0) for emotion in range(len(EMOTIONS))] for seed in range(20)]
    images = np.array([[image for image, _ in face] for face in drawn], np.float32)
    masks = np.array([[mask for _, mask in face] for face in drawn])
    assert masks.mean((2, 3)).min() > 0.05
    assert masks.mean((2, 3)).max() < 0.3
    changed = np.ptp(images, axis=1) > 0
    assert changed[masks.any(1)].mean() > 0.5


def test_class_does_not_change_expression_or_pose():
    for seed in range(10):
        np.testing.assert_array_equal(render_face(seed, 3, 0)[1], render_face(seed, 3, 1)[1])


def test_class_shows_outside_the_mask():
    for seed in range(10):
        (woman, mask), (man, _) = render_face(seed, 3, 0), render_face(seed, 3, 1)
        assert (woman != man)[~mask].mean() > 0.05


def test_images_use_the_range_without_clipping_much(faces):
    assert np.ptp(faces.images, axis=(1, 2, 3)).min() > 80
    assert (faces.images == 255).mean() < 0.01


def test_labels_can_be_predicted_from_the_images(faces):
    gradients = cv2.HOGDescriptor((64, 64), (16, 16), (8, 8), (8, 8), 9)

    def features(drawn):
        return np.array([gradients.compute(image[..., 0]) for image in drawn.images])

    train = render_faces(count=700, seed=7)
    for labels, least in (("emotions", 0.8), ("genders", 0.9)):
        classifier = RidgeClassifier(alpha=10).fit(features(train), getattr(train, labels))
        assert classifier.score(features(faces), getattr(faces, labels)) > least


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0, "seed": 0}, "count: 0"),
        ({"count": 1, "seed": -1}, "seed: -1"),
        ({"count": 1, "seed": 0, "image_size": 31}, "image_size: 31"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(FaceflaxError, match=message):
        render_faces(**arguments)


@pytest.mark.parametrize(
    ("emotion", "gender", "message"), [(7, 0, "emotion: 7"), (-1, 0, "emotion: -1"), (0, 2, "gender: 2")]
)
def test_bad_labels_are_named(emotion, gender, message):
    with pytest.raises(FaceflaxError, match=message):
        render_face(0, emotion, gender)
