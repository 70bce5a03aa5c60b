"""Our detector around its network: where it looks, what it makes of the answers. The network knows all faces."""

import jax
import numpy as np
import pytest

from faceflax import models, pretrained
from faceflax.errors import FaceflaxError
from faceflax.faces.detection import Detection, boxes_of, iou
from faceflax.faces.network import NetworkDetector
from faceflax.faces.tiles import SIDES, tiles
from faceflax.media import demo

from .networks import Seer, landmarks_of


def faces_in(rng, height, width, count, least=20):
    """Faces of all sizes that overlap no other: from ``least`` pixels up to the frame's shorter side."""
    found = []
    for _ in range(200 * count):
        size = np.exp(rng.uniform(np.log(least), np.log(min(height, width))))
        box = np.array([rng.uniform(0, width - 0.79 * size), rng.uniform(0, height - size), 0.79 * size, size])
        if not len(found) or not np.any(touching(box, np.array(found))):
            found.append(box)
        if len(found) == count:
            break
    return np.array(found)


def touching(box, others):
    return ((box[:2] < others[:, :2] + others[:, 2:]) & (others[:, :2] < box[:2] + box[2:])).all(1)


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (360, 640),
        (640, 360),
        (3000, 4000),
        (300, 20_000),
        (20_000, 300),
        (1100, 1080),
        (1067, 1068),
        (64, 3000),
        (30, 40),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_face_is_found_once_whatever_the_frames_shape(height, width, seed):
    boxes = faces_in(np.random.default_rng(seed), height, width, 40)
    found = NetworkDetector(Seer(boxes))(np.zeros((height, width, 3), np.uint8))
    assert len(found) == len(boxes)
    overlaps = iou(boxes, boxes_of(found))
    assert overlaps.max(1).min() > 0.85  # whole, but for the rounding to pixels
    for face, index in zip(found, overlaps.argmax(0), strict=True):
        np.testing.assert_allclose(face.landmarks, landmarks_of(boxes[index]), atol=0.01)
        assert face.score == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("detail", [0.5, 1.4, 2])
def test_detail_is_the_scale_of_the_search(detail):
    boxes = faces_in(np.random.default_rng(2), 700, 900, 30, least=40)
    seer = Seer(boxes)
    found = NetworkDetector(seer, detail=detail)(np.zeros((700, 900, 3), np.uint8))
    assert len(found) == len(boxes)
    finest = max(region.rows / region.height for call in seer.calls for region in call)
    assert detail <= finest < 1.2 * detail  # a frame is enlarged to fill its input


@pytest.mark.parametrize(("shape", "finest"), [((360, 640), 2.0), ((800, 1600), 1.2), ((1500, 3000), 1.0)])
def test_a_large_frame_is_not_enlarged_for_detail(shape, finest):
    seer = Seer([])
    NetworkDetector(seer, detail=2)(np.zeros((*shape, 3), np.uint8))
    scale = max(region.rows / region.height for call in seer.calls for region in call)
    assert finest <= scale < 1.1 * finest


class Twice:
    """Two networks: of a frame, whose first pixel is black, and of the mirrored one."""

    def __init__(self, plain, mirrored):
        self.plain, self.mirrored = plain, mirrored

    def detect(self, image, regions, *, min_score):
        return (self.mirrored if image[0, 0, 0] else self.plain).detect(image, regions, min_score=min_score)


def test_a_mirrored_search_is_averaged_with_the_plain_one():
    frame = np.zeros((300, 400, 3), np.uint8)
    frame[:, 200:] = 255
    both, moved = np.array([40.0, 50, 79, 100]), np.array([44.0, 50, 79, 100])
    alone, doubtful, weak = [200, 100, 40, 50], [250, 200, 40, 50], [320, 20, 40, 50]

    def other_way(box):
        return [400 - box[0] - box[2], *box[1:]]

    plain = Seer([both, alone, doubtful], [0.9, 0.99, 0.5], cut=0)
    mirrored = Seer([other_way(box) for box in (moved, doubtful, weak)], [0.3, 0.5, 0.98], cut=0)
    first, second = NetworkDetector(Twice(plain, mirrored), min_score=0.5, mirrored=True)(frame)
    assert first.score == pytest.approx(0.6)
    share = 0.3 / (0.9 + 0.3)
    assert first.box.tolist() == [41, 50, 79, 100]
    np.testing.assert_allclose(first.landmarks, landmarks_of(both + share * (moved - both)), atol=1e-3)
    assert (second.box.tolist(), second.score) == (doubtful, pytest.approx(0.5))
    found = NetworkDetector(Twice(plain, mirrored), min_score=0.4, mirrored=True)(frame)
    assert [round(face.score, 3) for face in found] == [0.6, 0.5, 0.495, 0.49]
    assert found[3].box.tolist() == weak
    np.testing.assert_allclose(found[3].landmarks, landmarks_of(np.array(weak)), atol=1e-3)
    finer = [max(r.rows / r.height for call in seer.calls for r in call) for seer in (plain, mirrored)]
    assert finer[1] > finer[0]


@pytest.mark.parametrize("least", [0.3, 0.6, 0.9])
def test_two_searches_leave_out_nothing_whose_mean_is_sufficient(least):
    detector = NetworkDetector(min_score=least, mirrored=True)
    everything = NetworkDetector(min_score=0.02, mirrored=True)(demo.photograph())
    found = detector(demo.photograph())
    wanted = [face for face in everything if face.score >= least]
    assert len(wanted) >= (least < 0.9)
    assert [face.score for face in found] == [face.score for face in wanted]


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (7, 5)])
def test_frames_without_room_for_a_face(shape):
    for mirrored in (False, True):
        assert NetworkDetector(Seer([]), mirrored=mirrored)(np.zeros((*shape, 3), np.uint8)) == []


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (360, 640), (1, 20_000), (20_000, 20_000), (641, 641), (1153, 1153), (700, 90_000)]
)
@pytest.mark.parametrize("scale", [0.6, 1.0, 2.0])
def test_groups_of_tiles_do_not_overlap_and_are_small(height, width, scale):
    for group in tiles(height, width, scale):
        assert 1 <= len(group) <= 32
        boxes = np.array([[r.left, r.top, r.width, r.height] for r in (tile.region for tile in group)])
        assert np.max(iou(boxes, boxes) - np.eye(len(boxes))) < 1e-9
        assert all(tile.region.rows in SIDES and tile.region.columns in SIDES for tile in group)


@pytest.mark.parametrize(("height", "width"), [(3000, 4000), (300, 20_000), (20_000, 20_000), (1100, 1080)])
def test_any_face_is_whole_in_some_tile_and_of_a_size_for_the_network(height, width):
    rng = np.random.default_rng(3)
    shown = [tile for group in tiles(height, width, 0.6) for tile in group]
    edges = np.array([tile[1:] for tile in shown])
    scales = np.array([tile.region.rows / tile.region.height for tile in shown])
    for size in np.exp(rng.uniform(np.log(20), np.log(min(height, width)), 500)):
        low = rng.uniform(0, [width - 0.79 * size, height - size])
        whole = (low >= edges[:, :2]).all(1) & (low + np.array([0.79, 1]) * size <= edges[:, 2:4]).all(1)
        whole &= (edges[:, 4] <= size) & (size <= edges[:, 5])
        pixels = size * scales[whole]
        assert len(pixels)
        assert ((pixels >= 11.99) & (pixels <= SIDES[-1])).any()
        assert pixels.max() >= min(48, 0.6 * size)


def test_a_small_frame_is_one_look_and_a_large_one_costs_what_its_pixels_do():
    for shape, most in (((360, 640), 1.3), ((3000, 4000), 2.2), ((300, 20_000), 2.2)):
        pixels = sum(t.region.rows * t.region.columns for group in tiles(*shape, 0.6) for t in group)
        assert pixels < most * shape[0] * shape[1] * 0.36


def test_a_frame_of_a_camera_is_not_padded():
    (first, *_), *_ = tiles(480, 640, 1.0)
    assert (first.region.left, first.region.top, first.region.width, first.region.height) == (0, 0, 640, 480)
    assert (first.region.rows, first.region.columns) == (480, 640)


def test_smaller_faces_are_left_out_and_the_search_is_coarser():
    frame = np.zeros((360, 640, 3), np.uint8)
    sizes = []
    for size, count in {20: 2, 40: 1, 80: 0}.items():
        seer = Seer([[10, 10, 24, 30], [100, 10, 48, 60]])
        assert len(NetworkDetector(seer, min_size=size)(frame)) == count
        sizes.append(seer.calls[0][0].columns)
    assert sizes == sorted(set(sizes), reverse=True)


def test_a_frame_is_reduced_to_the_longest_side_and_boxes_are_not():
    seer = Seer([[1000, 400, 160, 200], [3000, 400, 24, 30]])
    (face,) = NetworkDetector(seer, max_side=640)(np.zeros((2160, 3840, 3), np.uint8))
    assert face.box.tolist() == [1000, 400, 160, 200]
    assert [max(region.rows, region.columns) for call in seer.calls for region in call] == [640, 256]


def test_a_face_that_fills_the_frame_is_looked_for_at_a_coarser_scale():
    seer = Seer([[150, 10, 250, 320]])
    NetworkDetector(seer)(np.zeros((360, 640, 3), np.uint8))
    heights = [320 * region.rows / region.height for call in seer.calls for region in call]
    assert heights[0] > 192 >= heights[1]


def test_a_coarser_search_is_not_asked_for_faces_that_a_finer_one_sees_well():
    """So that it adds no false ones: 48 pixels of its input are 120 of the frame."""
    for height, count in ((110, 0), (130, 1)):
        seer = Seer([[150, 10, 0.79 * height, height]], finest=0.9)
        assert len(NetworkDetector(seer)(np.zeros((360, 640, 3), np.uint8))) == count
        assert len(seer.calls) == 2


def test_a_part_of_a_face_is_no_face_and_a_better_small_one_stays():
    """What a tile of a fine scale sees in a large face; and a face in front of another."""
    large = [200, 100, 1580, 2000]
    part, certain = [600, 500, 80, 100], [1200, 900, 80, 100]
    found = NetworkDetector(Seer([large, part, certain], [0.6, 0.65, 0.9]), min_score=0.5)(
        np.zeros((3000, 4000, 3), np.uint8)
    )
    assert [round(face.box[0]) for face in found] == [1200, 200]


def test_a_box_ends_at_the_frames_edge():
    (face,) = NetworkDetector(Seer([[-20, 40, 79, 100]]))(np.zeros((300, 400, 3), np.uint8))
    assert face.box.tolist() == [0, 40, 59, 100]


def test_close_looks_are_one_call_in_the_order_asked():
    boxes = np.array([[100.0, 100, 79, 100], [400, 50, 16, 20]])
    seer = Seer(boxes, [0.7, 0.3])  # the second one is not a face by itself
    detector = NetworkDetector(seer)
    expected = [Detection(box) for box in np.array([[403.0, 48, 17, 21], [300, 300, 50, 60], [109, 104, 79, 100]])]
    seen = detector.follow(np.zeros((360, 640, 3), np.uint8), expected)
    assert seen[1] is None
    np.testing.assert_allclose([seen[0].box, seen[2].box], boxes[::-1], atol=1e-3)
    assert [round(face.score, 3) for face in (seen[0], seen[2])] == [0.3, 0.7]
    (regions,) = seer.calls
    assert {(region.rows, region.columns) for region in regions} == {(128, 128)}
    assert [
        round(region.rows / region.height * face.box[3]) for region, face in zip(regions, expected, strict=True)
    ] == [64] * 3
    assert detector.follow(np.zeros((360, 640, 3), np.uint8), []) == []


def test_each_close_look_gets_its_own_face():
    """Two faces beside each other: the look at either shows both."""
    boxes = np.array([[100.0, 100, 79, 100], [170, 100, 79, 100]])
    seen = NetworkDetector(Seer(boxes, cut=-0.2)).follow(
        np.zeros((360, 640, 3), np.uint8), [Detection(box) for box in boxes]
    )
    np.testing.assert_allclose(boxes_of(seen), boxes, atol=1e-3)
    (one, other) = NetworkDetector(Seer(boxes[:1], cut=-0.2)).follow(
        np.zeros((360, 640, 3), np.uint8), [Detection(box) for box in boxes]
    )
    assert other is None
    np.testing.assert_allclose(one.box, boxes[0], atol=1e-3)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A network of random weights, which finds something everywhere."""
    model = models.create("face_detector", 1)
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0), image_size=64))
    rng = np.random.default_rng(0)

    def draw(path, shape):
        positive = path[-1].key in ("scale", "var")
        return (rng.uniform(0.5, 1.5, shape.shape) if positive else rng.normal(0, 0.2, shape.shape)).astype(np.float32)

    file = tmp_path_factory.mktemp("detector") / "random.safetensors"
    variables = jax.tree.map_with_path(draw, shapes)
    pretrained.save(file, variables, arch="face_detector", dataset="none", labels=("face",), image_size=64)
    return file


def test_a_network_that_was_never_trained_gives_detections(untrained):
    detector = NetworkDetector(untrained, min_score=0.1)
    found = detector(demo.photograph())
    assert found
    assert [face.score for face in found] == sorted((face.score for face in found), reverse=True)
    for face in found:
        assert face.landmarks.shape == (5, 2)
        assert face.landmarks.dtype == np.float32
        assert 0.1 <= face.score <= 1
        x, y, width, height = face.box
        assert 0 <= x < x + width <= 512
        assert 0 <= y < y + height <= 600
        assert max(width, height) >= 20
    assert len(detector.follow(demo.photograph(), found)) == len(found)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("min_score", 0),
        ("min_score", 1.1),
        ("min_score", np.nan),
        ("min_size", 5),
        ("max_side", 0),
        ("detail", 0),
        ("detail", 9),
    ],
)
def test_bad_argument_is_named(argument, value):
    with pytest.raises(FaceflaxError, match=f"{argument}: {value}"):
        NetworkDetector(Seer([]), **{argument: value})


def test_other_weights_are_named(weights):
    with pytest.raises(FaceflaxError, match=r"^weights: .*emotion\.safetensors' are of mini_xception"):
        NetworkDetector(weights[0])


@pytest.mark.parametrize("frame", [None, np.zeros((9, 9), np.uint8)])
def test_bad_frame_is_named(frame):
    for look in (NetworkDetector(Seer([])), lambda frame: NetworkDetector(Seer([])).follow(frame, [])):
        with pytest.raises(FaceflaxError, match="frame: "):
            look(frame)
