"""The adapter around OpenCV's YuNet, with a network of the same form that takes bright squares for faces."""

from pathlib import Path

import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.faces.detection import Detection, boxes_of
from faceflax.faces.yunet import YuNetDetector

SIDE = 64
YUNET = Path(__file__).resolve().parents[2].parent / "shared/reference/yunet_2026may.onnx"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """YuNet's inputs and outputs; a cell of 32 pixels that is white throughout is a face of 64 pixels about its corner.

    Its score is how bright it is; its landmarks tell a roll of 45 degrees.
    """
    onnx = pytest.importorskip("onnx", reason="needs the extra 'benchmark'")
    from onnx import TensorProto, helper, numpy_helper

    def constant(name, values):
        return numpy_helper.from_array(np.array(values), name)

    nodes, constants, outputs = [], [constant("colours", np.full((1, 3, 1, 1), 1 / 765, np.float32))], []
    for stride in (8, 16, 32):
        size = stride
        nodes += [
            helper.make_node("Conv", ["input", "colours"], [f"grey{stride}"], kernel_shape=[1, 1]),
            helper.make_node(
                "AveragePool", [f"grey{stride}"], [f"bright{stride}"], kernel_shape=[size, size], strides=[size, size]
            ),
        ]
        factors = {
            "cls": np.full((1, 1), 1.0 if stride == 32 else 0.0),
            "obj": np.full((1, 1), 1.0),
            "bbox": np.array([[1.0, 1.0, np.log(2), np.log(2)]]),  # centre, in cells from its corner; log of sides
            "kps": np.array([[0.0, 0, 1, 1, 0, 0, 0, 0, 0, 0]]),
        }
        constants.append(constant(f"column{stride}", np.array([1, -1, 1], np.int64)))
        nodes.append(helper.make_node("Reshape", [f"bright{stride}", f"column{stride}"], [f"cells{stride}"]))
        for name, factor in factors.items():
            constants.append(constant(f"{name}{stride}_factor", factor.astype(np.float32)))
            width = factor.shape[1]
            if name in ("bbox", "kps"):  # the same in every cell
                constants.append(constant(f"{name}{stride}_zero", np.zeros((1, width), np.float32)))
                nodes += [
                    helper.make_node("MatMul", [f"cells{stride}", f"{name}{stride}_zero"], [f"{name}{stride}_none"]),
                    helper.make_node("Add", [f"{name}{stride}_none", f"{name}{stride}_factor"], [f"{name}_{stride}"]),
                ]
            else:
                nodes.append(
                    helper.make_node("MatMul", [f"cells{stride}", f"{name}{stride}_factor"], [f"{name}_{stride}"])
                )
    for name, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        outputs += [
            helper.make_tensor_value_info(f"{name}_{s}", TensorProto.FLOAT, [1, None, width]) for s in (8, 16, 32)
        ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 128, 128])
    graph = helper.make_graph(nodes, "squares", [image], outputs, constants)
    file = tmp_path_factory.mktemp("yunet") / "squares.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), file)
    return file


@pytest.fixture(scope="module")
def detector(model):
    return YuNetDetector(model)


def frame_with(*cells, height=256, width=384, brightness=255):
    frame = np.zeros((height, width, 3), np.uint8)
    for x, y in cells:
        frame[y : y + 32, x : x + 32] = brightness
    return frame


def test_boxes_are_where_the_squares_are(detector):
    boxes = boxes_of(detector(frame_with((96, 64), (256, 128))))
    assert sorted(boxes.tolist()) == [[96, 64, 64, 64], [256, 128, 64, 64]]
    assert detector(frame_with()) == []


def test_scores_and_landmarks_are_the_networks(detector):
    (face,) = detector(frame_with((96, 64), brightness=204))
    assert face.score == pytest.approx(0.8, abs=1e-3)
    assert face.landmarks.dtype == np.float32
    np.testing.assert_allclose(face.landmarks, [[96, 64], [128, 96], [96, 64], [96, 64], [96, 64]], atol=0.01)


def test_small_faces_are_left_out_where_that_is_asked(model):
    frame = frame_with((96, 64))
    assert [len(YuNetDetector(model, min_size=size)(frame)) for size in (64, 65)] == [1, 0]


def test_the_highest_confidence_is_first_and_the_low_left_out(detector):
    frame = frame_with((32, 64), (160, 128), (288, 32))
    frame[64:96, 32:64] = 230
    frame[32:64, 288:320] = 100
    assert boxes_of(detector(frame)).tolist() == [[160, 128, 64, 64], [32, 64, 64, 64]]


def test_a_large_frame_is_reduced_and_its_boxes_are_not(model):
    frame = frame_with((96, 64)).repeat(3, axis=0).repeat(3, axis=1)
    (face,) = YuNetDetector(model, max_side=384)(frame)
    assert face.box.tolist() == [288, 192, 192, 192]
    np.testing.assert_allclose(face.landmarks[1], [384, 288], atol=0.01)


def test_a_box_ends_at_the_frames_edge(detector):
    assert boxes_of(detector(frame_with((352, 224)))).tolist() == [[352, 224, 32, 32]]


def test_follow_looks_only_where_it_is_told(detector):
    """A close look begins half a face before the box: on a face at (96, 64), at (64, 32), where the cells lie alike."""
    frame = frame_with((96, 64), (256, 128))
    seen, nothing = detector.follow(frame, [Detection(np.array([x, y, 64.0, 64])) for x, y in ((96, 64), (0, 192))])
    np.testing.assert_allclose(seen.box, [96, 64, 64, 64], atol=0.01)
    assert seen.score == pytest.approx(1)
    np.testing.assert_allclose(seen.landmarks[:2], [[96, 64], [128, 96]], atol=0.01)
    assert nothing is None


def test_follow_scales_and_takes_low_confidence(detector):
    frame = frame_with((96, 64), brightness=120).repeat(2, axis=0).repeat(2, axis=1)
    (seen,) = detector.follow(frame, [Detection(np.array([192.0, 128, 128, 128]))])
    np.testing.assert_allclose(seen.box, [192, 128, 128, 128], atol=0.01)
    assert 0.35 < seen.score < detector.min_score


@pytest.mark.skipif(not YUNET.is_file(), reason="needs ../shared/reference")
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (1, 20_000), (20_000, 1), (300, 20_000)])
def test_no_face_in_frames_of_any_shape(shape):
    detector, frame = YuNetDetector(YUNET), np.full((*shape, 3), 128, np.uint8)
    assert detector(frame) == []
    assert detector.follow(frame, [Detection(np.array([0.0, 0, 0.2, 0.2]))]) == [None]


def test_a_missing_model_file_is_named(tmp_path):
    with pytest.raises(FaceflaxError, match=r"model: there is no model file '.*none\.onnx'; download face_detection"):
        YuNetDetector(tmp_path / "none.onnx")


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(FaceflaxError, match=r"model: '.*bad\.onnx' is not a YuNet model that OpenCV"):
        YuNetDetector(tmp_path / "bad.onnx")


@pytest.mark.parametrize(
    ("argument", "value"), [("min_score", 0), ("min_score", 1.1), ("max_side", 0), ("min_size", 0)]
)
def test_bad_argument_is_named(tmp_path, argument, value):
    with pytest.raises(FaceflaxError, match=f"{argument}: {value}"):
        YuNetDetector(tmp_path / "any.onnx", **{argument: value})
