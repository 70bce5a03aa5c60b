import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.faces.frame import as_bgr
from faceflax.live import loop
from faceflax.media import demo, sources
from faceflax.media.sources import open_source

from ..rights import nobody

CLIPS = Path(__file__).resolve().parents[3] / "shared/data/video"

LEVELS = np.linspace(20, 235, 30).round().astype(np.uint8)


def write_video(path, codec, size=(64, 48)):
    """Thirty plain frames that grow brighter, ten a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10.0, size)
    for level in LEVELS:
        writer.write(np.full((size[1], size[0], 3), level, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "mp4v"), ("v.avi", "MJPG")])
def test_video_gives_each_frame_with_its_time(tmp_path, capsys, name, codec):
    source = open_source(str(write_video(tmp_path / name, codec)))
    assert (source.kind, source.fps, source.count) == ("video", 10.0, 30)
    frames = list(source.frames)
    assert [frame.index for frame in frames] == list(range(30))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(30) / 10)
    np.testing.assert_allclose([frame.image.mean() for frame in frames], LEVELS, atol=4)
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert capsys.readouterr().err == ""


def test_truncated_video_gives_what_can_be_read_and_says_so(tmp_path, capsys):
    path = write_video(tmp_path / "v.avi", "MJPG")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    frames = list(open_source(str(path)).frames)
    assert 3 < len(frames) < 30
    whole = [frame.image.mean() for frame in frames[:-1]]  # the last one is cut in two
    np.testing.assert_allclose(whole, LEVELS[: len(whole)], atol=4)
    said = capsys.readouterr().err
    assert f"warning: {len(frames)} of the 30 frames that {str(path)!r} announces can be read" in said


def test_behind_a_damaged_middle_the_video_goes_on_at_its_own_time(tmp_path, capsys):
    rng = np.random.default_rng(0)
    path = tmp_path / "v.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for index in range(100):  # noise, so that most of the file is image data
        writer.write(np.uint8(rng.integers(0, 50, (48, 64, 3)) + 2 * index))
    writer.release()
    content = bytearray(path.read_bytes())
    start, end = int(0.45 * len(content)), int(0.55 * len(content))
    content[start:end] = rng.bytes(end - start)
    path.write_bytes(content)
    frames = list(open_source(str(path)).frames)
    assert 60 < len(frames) < 97
    times = np.array([frame.time for frame in frames])
    assert (np.diff(times) > 0).all()
    assert times[-1] == pytest.approx(9.9)
    whole = (times < 4) | (times > 8)
    levels = np.array([frame.image.mean() for frame in frames])
    np.testing.assert_allclose(levels[whole], 24.5 + 20 * times[whole], atol=6)
    assert f"{len(frames)} of the 100 frames that {str(path)!r} announces can be read" in capsys.readouterr().err


def test_frames_without_a_constant_rate_have_their_own_times():
    path = CLIPS / "pyfeat_face_noface.mov"
    if not path.exists():
        pytest.skip(f"needs {path.name} in ../shared/data/video")
    times = np.array([frame.time for frame in open_source(str(path)).frames])
    steps = np.diff(times)
    assert times[0] == 0
    assert steps.min() > 0
    assert steps.min() < 0.9 * np.median(steps)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5)])
def test_as_bgr(dtype, channels, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, np.iinfo(dtype).max, (*size, *channels), dtype, endpoint=True)
    bgr = as_bgr(image)
    grey_or_color = image.reshape(*size, -1)[..., :3]
    np.testing.assert_allclose(bgr, np.broadcast_to(grey_or_color / (np.iinfo(dtype).max / 255), (*size, 3)), atol=0.51)
    assert (bgr.shape, bgr.dtype) == ((*size, 3), np.uint8)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)],
)
def test_as_bgr_names_what_is_not_an_image(image):
    with pytest.raises(FaceflaxError, match=rf"image: type {image.dtype}, shape \({image.shape[0]},.*is not an image"):
        as_bgr(image)


class Camera(BaseHTTPRequestHandler):
    """A network camera that sends ten images to each who connects, then hangs up."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for level in range(10):
            image = cv2.imencode(".jpg", np.full((48, 64, 3), 20 * level, np.uint8))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
            self.wfile.write(head.encode() + image + b"\r\n")
        self.server.connections += 1
        if self.server.connections == 2:  # unplugged
            self.server.socket.close()

    def log_message(self, *_):
        pass


@pytest.fixture
def camera():
    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        server.connections = 0
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/camera.mjpg"
        server.shutdown()
        thread.join()


def test_a_camera_that_stops_is_opened_again_and_given_up_when_gone(camera, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "RETRIES", 2)
    source = open_source(camera)
    assert source.kind == "camera"
    output = tmp_path / "o.avi"
    summary = loop.run(source, lambda image: [], output=output, csv=tmp_path / "o.csv")
    assert 2 <= summary.frames <= 20
    assert summary.frames + summary.dropped == 20  # ten from each of two connections
    said = capsys.readouterr().err
    assert said.count("gives no more frames; trying to open it again") == 2
    assert "is gone; stopped after 20 frames" in said
    assert len(list(open_source(str(output)).frames)) >= 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.avi", "o.csv"]


def test_a_camera_that_never_gives_a_frame_is_named(monkeypatch):
    monkeypatch.setattr(sources, "RETRIES", 1)
    frames = sources.camera_frames(cv2.VideoCapture(), cv2.VideoCapture, 0)
    with pytest.raises(FaceflaxError, match=r"^source: camera 0 can be opened but gives no frame"):
        list(frames)


def test_a_stream_that_cannot_be_opened_is_named():
    with pytest.raises(FaceflaxError, match=r"^source: the stream 'http://127.0.0.1:1/x.mjpg' cannot be opened"):
        open_source("http://127.0.0.1:1/x.mjpg")


@pytest.mark.parametrize("content", [b"", b"\0" * 3000, b"hello " * 500, "mp4 without its index"])
@pytest.mark.parametrize("name", ["v.mp4", "notes.txt", "v"])
def test_what_is_no_video_is_named(tmp_path, content, name):
    path = tmp_path / name
    if isinstance(content, str):
        content = write_video(tmp_path / "whole.mp4", "mp4v").read_bytes()
        content = content[: len(content) // 2]
    path.write_bytes(content)
    with pytest.raises(FaceflaxError, match=f"^source: .*{name}") as caught:
        list(open_source(str(path)).frames)
    assert ("empty" in str(caught.value)) == (not content)


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (np.full((5, 4), 70, np.uint8), "png", [70, 70, 70]),
        (np.full((5, 4), 70 * 257, np.uint16), "png", [70, 70, 70]),
        (np.full((5, 4, 3), [10 * 257, 100 * 257, 200 * 257], np.uint16), "png", [10, 100, 200]),
        (np.full((5, 4, 3), [10 * 257, 100 * 257, 200 * 257], np.uint16), "tiff", [10, 100, 200]),
        (np.full((5, 4, 4), [10, 100, 200, 51], np.uint8), "png", [206, 224, 244]),  # a fifth over white
        (np.full((5, 4, 3), [10, 100, 200], np.uint8), "bmp", [10, 100, 200]),
        (np.full((1, 1, 3), [10, 100, 200], np.uint8), "PNG", [10, 100, 200]),
    ],
    ids=["grey", "grey 16 bits", "colour 16 bits", "tiff 16 bits", "alpha", "bmp", "one pixel"],
)
def test_image_of_any_kind_becomes_uint8_bgr(tmp_path, image, suffix, expected):
    path = tmp_path / f"i.{suffix}"
    cv2.imwrite(str(path), image)
    source = open_source(str(path))
    (frame,) = source.frames
    assert (source.kind, source.count, frame.name, frame.index) == ("image", 1, path.name, 0)
    assert frame.image.dtype == np.uint8
    np.testing.assert_array_equal(frame.image, np.broadcast_to(np.uint8(expected), (*image.shape[:2], 3)))


@pytest.mark.parametrize("content", [b"", b"not a image"])
def test_unreadable_image_is_named(tmp_path, content):
    path = tmp_path / "i.png"
    path.write_bytes(content)
    with pytest.raises(FaceflaxError, match=r"^source: .*i\.png"):
        open_source(str(path))


def test_folder_goes_in_order_of_names_and_skips_the_unreadable_aloud(tmp_path, capsys):
    for name, level in (("b.jpg", 20), ("a.png", 10), ("c.PNG", 30)):
        cv2.imwrite(str(tmp_path / name), np.full((8, 8 + level), level, np.uint8))
    (tmp_path / "bad.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "sub.png").mkdir()
    source = open_source(str(tmp_path))
    frames = list(source.frames)
    assert (source.kind, source.count) == ("folder", 4)
    assert [(f.name, f.index, f.image.shape[1]) for f in frames] == [
        ("a.png", 0, 18),
        ("b.jpg", 1, 28),
        ("c.PNG", 2, 38),
    ]
    assert f"{str(tmp_path / 'bad.png')!r} is empty; skipped" in capsys.readouterr().err


def test_what_another_user_owns_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed/a.png").write_bytes(b"image")
    (tmp_path / "closed").chmod(0)
    with nobody(tmp_path):
        with pytest.raises(FaceflaxError, match=r"^source: cannot read the folder 'closed' \(Permission denied\)"):
            open_source("closed")
        with pytest.raises(FaceflaxError, match=r"^source: there is no 'closed/a\.png'"):
            open_source("closed/a.png")
    with pytest.raises(FaceflaxError, match=r"^source: there is no 'aaaa"):
        open_source("a" * 5000)


def test_folder_without_images(tmp_path):
    with pytest.raises(FaceflaxError, match=r"^source: no images in the folder '"):
        open_source(str(tmp_path))
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(FaceflaxError, match=r"^source: none of the 1 images"):
        list(open_source(str(tmp_path)).frames)


@pytest.mark.parametrize("source", ["77", "99999999999999", "no/such/file.mp4", "-1"])
def test_what_is_not_there_is_named_with_the_choices(source):
    with pytest.raises(FaceflaxError, match=f"^source: there is no .*{source}.*folder of images, or demo"):
        open_source(source)


def test_demo_video_is_the_photograph_moving():
    source = open_source("demo")
    images = [frame.image for frame in source.frames]
    assert len(images) == source.count == demo.NUM_FRAMES
    assert {(image.shape, image.dtype.name) for image in images} == {((360, 640, 3), "uint8")}
    steps = [
        np.abs(np.subtract(a, b, dtype=np.float32)).mean() for a, b in zip(images, images[1:] + images[:1], strict=True)
    ]
    assert min(steps) > 0.1  # always moving
    assert max(steps) < 40  # and never jumping, from the last frame to the first neither
