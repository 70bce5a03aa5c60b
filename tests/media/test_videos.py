"""Films made by the test with PyAV, some of them patched: what their frames and times are is known beforehand."""

import os
import socket
import struct
import threading
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.media import addresses, hdr, videos
from faceflax.media.sources import open_file, open_source

from .clips import levels, write_clip


def read(path):
    frames = list(open_source(os.fspath(path)).frames)
    return np.array([frame.time for frame in frames]), [frame.image for frame in frames]


def means(pictures):
    return [picture.mean() for picture in pictures]


@pytest.mark.parametrize("name", ["v.mp4", "v.webm", "v.avi", "v.mkv", "v.mov"])
@pytest.mark.parametrize("renamed", [None, "video.jpg", "video"])
def test_every_format_whatever_its_name(tmp_path, name, renamed):
    path = write_clip(tmp_path / name)
    if renamed:
        path = path.rename(tmp_path / renamed)
    source = open_source(str(path))
    assert (source.kind, source.fps, source.count) == ("video", 10.0, 30)
    assert source.seconds == pytest.approx(3, abs=0.05)
    frames = list(source.frames)
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(30) / 10, atol=1e-3)
    np.testing.assert_allclose(means([frame.image for frame in frames]), levels(30), atol=6)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv"])
def test_a_varying_rate_is_kept(tmp_path, suffix):
    times = [0, 0.1, 0.5, 0.533, 2, 2.25]
    read_times, pictures = read(write_clip(tmp_path / f"v{suffix}", 6, times=times))
    np.testing.assert_allclose(read_times, times, atol=2e-3)
    np.testing.assert_allclose(means(pictures), levels(6), atol=6)


def test_a_browsers_recording_has_no_thousand_frames_a_second(tmp_path):
    """Browsers write no rate, and FFmpeg takes the milliseconds that time is measured in for it."""

    path = write_clip(tmp_path / "v.webm", 12, times=np.arange(12) / 30, rate=1000)
    source = open_source(str(path))
    assert source.fps is None
    np.testing.assert_allclose([frame.time for frame in source.frames], np.arange(12) / 30, atol=2e-3)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_it_is_turned_and_mirrored_as_its_matrix_says(tmp_path, quarters, mirrored):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = 220, 150, 80
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]
    across, down = (-1 if mirrored else 1, 1)  # mirrored from left to right, then turned clockwise
    a, b, c, d = across * cos, across * sin, -sin * down, cos * down
    one = 1 << 16
    matrix = [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30]
    path = write_clip(
        tmp_path / "v.mp4", 3, setup=lambda stream: stream.set_display_matrix(matrix), pictures=[picture] * 3
    )
    expected = np.rot90(picture[:, ::-1] if mirrored else picture, -quarters)
    _, (first, *_) = read(path)
    assert first.shape == expected.shape
    assert np.abs(first.astype(int) - expected).mean() < 8


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(2, 1), (48, 128)), (Fraction(1, 2), (96, 64))])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_pixels_become_square(tmp_path, suffix, aspect, size):
    def stretch(stream):
        stream.codec_context.sample_aspect_ratio = aspect

    _, pictures = read(write_clip(tmp_path / f"v{suffix}", 4, setup=stretch))
    assert {picture.shape for picture in pictures} == {(*size, 3)}


def patched(path, tag, offset, form, *values):
    """Overwrites values of an MP4's box, ``offset`` bytes behind its name."""
    content = bytearray(path.read_bytes())
    place = content.find(tag)
    assert place > 0
    struct.pack_into(form, content, place + offset, *values)
    path.write_bytes(content)
    return path


def scale_of(path, tag):
    content = path.read_bytes()
    return struct.unpack_from(">I", content, content.find(tag) + 16)[0]


def test_what_an_edit_list_cuts_off_is_left_out(tmp_path, capsys):
    path = write_clip(tmp_path / "v.mp4", options={"bf": "0"})
    begin, long = 1 * scale_of(path, b"mdhd"), 1 * scale_of(path, b"mvhd")
    patched(path, b"elst", 12, ">Ii", long, begin)  # a second from second 1 on
    times, pictures = read(path)
    np.testing.assert_allclose(times, np.arange(10) / 10, atol=1e-3)
    np.testing.assert_allclose(means(pictures), levels(30)[10:20], atol=6)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("tag", "offset"), [(b"stts", 12), (b"stsz", 12)])
def test_a_header_that_announces_two_thousand_million_frames_ends_at_once(tmp_path, tag, offset):
    path = patched(write_clip(tmp_path / "v.mp4"), tag, offset - (4 if tag == b"stts" else 0), ">I", 2**31 - 1)
    try:
        assert len(read(path)[1]) <= 30
    except FaceflaxError as error:
        assert "v.mp4" in str(error)  # noqa: PT017  # either is right


def test_an_avi_that_announces_two_thousand_million_frames_is_read_to_its_end(tmp_path):
    path = write_clip(tmp_path / "v.avi")
    patched(path, b"avih", 24, "<I", 2**31 - 1)
    patched(path, b"strh", 40, "<I", 2**31 - 1)
    source = open_source(str(path))
    assert source.count is None
    assert len(list(source.frames)) == 30


def test_damaged_parts_are_skipped_and_counted(tmp_path, capsys):
    rng = np.random.default_rng(0)
    pictures = [np.clip(rng.normal(level, 30, (48, 64, 3)), 0, 255).astype(np.uint8) for level in levels(60)]
    path = write_clip(tmp_path / "v.mp4", 60, options={"g": "5", "bf": "0"}, pictures=pictures)
    content = bytearray(path.read_bytes())
    start, end = int(0.4 * len(content)), int(0.6 * len(content))
    content[start:end] = rng.bytes(end - start)
    path.write_bytes(content)
    times, _ = read(path)
    assert 30 < len(times) < 57
    assert (np.diff(times) > 0).all()
    assert times[-1] == pytest.approx(5.9, abs=1e-3)
    assert f"{len(times)} of the 60 frames" in capsys.readouterr().err


def test_a_long_run_of_damage_ends_it(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(60)]
    path = write_clip(tmp_path / "v.mp4", 60, options={"g": "1", "bf": "0"}, pictures=pictures)
    content = bytearray(path.read_bytes())
    start, end = content.find(b"mdat") + 4, content.find(b"moov") - 4
    quarter = start + (end - start) // 4
    content[quarter:end] = b"\xff" * (end - quarter)
    path.write_bytes(content)
    counts = []
    for most in (500, 5):
        monkeypatch.setattr(videos, "MOST_FAILURES", most)
        video = videos.open_video(path, lambda message: None)
        reader = video.frames.gi_frame.f_locals["reader"]
        assert 10 < len(list(video.frames)) < 25
        counts.append(reader.damaged)
    assert counts[0] > 30
    assert 6 <= counts[1] < 10


def coded(light, transfer):
    """The code of light in candela a square metre, by the standards' own formulas (ST 2084; B67 for a peak of 1000)."""
    if transfer == "smpte2084":
        power = (light / 10_000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    scene = (light / 1000) ** (1 / 1.2)
    return np.sqrt(3 * scene) if scene <= 1 / 12 else 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073


@pytest.mark.parametrize(("transfer", "code"), [("smpte2084", 16), ("arib-std-b67", 18)])
def test_high_dynamic_range_has_the_brightness_of_an_ordinary_video(tmp_path, transfer, code):
    """A grey card of 18% and a face's 40% of white paper, which has 203 candela, are those of sRGB."""

    def setup(stream):
        stream.pix_fmt = "yuv420p10le"
        stream.codec_context.color_trc = code
        stream.codec_context.color_primaries = stream.codec_context.colorspace = 9  # BT.2020
        stream.codec_context.color_range = 1

    shares = [0.02, 0.18, 0.4, 0.6, 1.0, 4.0]
    pictures = [np.full((48, 64, 3), round(255 * coded(203 * share, transfer)), np.uint8) for share in shares]
    path = write_clip(tmp_path / "v.mp4", len(shares), setup=setup, pictures=pictures)
    seen = [frame.image.mean(axis=(0, 1)) for frame in open_source(str(path)).frames]
    srgb = [255 * (1.055 * share ** (1 / 2.4) - 0.055) for share in shares]
    for colour, expected in zip(seen[:4], srgb, strict=False):
        np.testing.assert_allclose(colour, expected, atol=9)  # a step of the pictures' eight bits is as much as that
    assert srgb[3] + 10 < seen[4].mean() < seen[5].mean() <= 255
    plain = write_clip(tmp_path / "plain.mp4", len(shares), pictures=pictures)
    untouched = [frame.image.mean() for frame in open_source(str(plain)).frames]
    np.testing.assert_allclose(untouched, [picture.mean() for picture in pictures], atol=5)


def test_the_primaries_of_high_dynamic_range_become_those_of_a_screen():
    """White stays white; BT.709's own red, given in BT.2020's primaries, becomes pure red."""
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    red = [coded(203 * 0.5 * part, "smpte2084") for part in to_2020[:, 0]]
    image = np.round(255 * np.array(red[::-1])).astype(np.uint8)[None, None]
    blue, green, shown = hdr.to_sdr(image, hdr.PQ)[0, 0].astype(int)
    assert abs(shown - 188) < 6
    assert max(blue, green) < 45


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '{clip}'\n",
        b"<?xml version='1.0'?><MPD><BaseURL>{clip}</BaseURL></MPD>",
        b"1\n00:00:00,000 --> 00:00:09,000\nhello\n",
    ],
    ids=["m3u8", "concat", "dash", "subtitles"],
)
def test_lists_of_other_files_and_texts_are_no_videos(tmp_path, content):
    path = tmp_path / "v.mp4"
    clip = write_clip(tmp_path / "secret.mp4")
    path.write_bytes(content.replace(b"{clip}", os.fsencode(clip)))
    with pytest.raises(FaceflaxError, match=r"v\.mp4' cannot be read as a video"):
        open_source(str(path))


def test_a_song_with_a_cover_is_no_video(tmp_path):
    path = write_clip(tmp_path / "v.mp4", 2, tone=True)
    content = path.read_bytes().replace(b"vide", b"soun")  # the handler of the pictures
    path.write_bytes(content)
    with pytest.raises(FaceflaxError, match=r"^source: .*v\.mp4'"):
        list(open_source(str(path)).frames)


@pytest.mark.parametrize(
    "name", [b"\xe9t\xe9.mp4", b"50%.mp4", b"a:b.mp4", b"-o.mp4", b"two\nlines.mp4", b"\xed\xa0\x80.mp4"]
)
def test_names_of_any_bytes(tmp_path, name):
    path = os.fsencode(tmp_path) + b"/" + name
    try:
        os.rename(write_clip(tmp_path / "v.mp4", 3), path)
    except OSError:
        pytest.skip("the file system does not have such names")
    (first, *_) = open_file(Path(os.fsdecode(path))).frames
    assert first.name == os.fsdecode(name)


@pytest.mark.parametrize(("kind", "make"), [("pipe", os.mkfifo), ("folder", os.mkdir)])
def test_what_is_no_file_is_named(tmp_path, kind, make):
    make(tmp_path / "v.mp4")
    with pytest.raises(FaceflaxError, match=rf"^source: .*v\.mp4' is a {kind}, not a file"):
        open_file(tmp_path / "v.mp4")


def test_devices_and_sockets_are_named(tmp_path, monkeypatch):
    with pytest.raises(FaceflaxError, match=r"^source: '/dev/zero' is a device, not a file"):
        open_source("/dev/zero")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.mp4")
        with pytest.raises(FaceflaxError, match=r"^source: 's\.mp4' is a socket, not a file"):
            open_source("s.mp4")


def test_frames_that_are_not_wanted_are_counted_and_not_yielded(tmp_path):
    source = open_file(write_clip(tmp_path / "v.mp4"), wanted=lambda index, time: index % 7 == 3)
    assert [frame.index for frame in source.frames] == [3, 10, 17, 24]


def test_closing_releases_the_file(tmp_path):
    for taken in (0, 2):
        source = open_source(str(write_clip(tmp_path / "v.mp4")))
        for _ in range(taken):
            next(source.frames)
        source.frames.close()  # a file that stays open is a warning, which is an error here
        assert list(source.frames) == []


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["v.mp4", "v.webm"])
def test_a_film_in_the_network_is_read_once(tmp_path, server, name):
    write_clip(tmp_path / name)
    source = open_source(f"http://me:secret@{server}/{name}?token=abc")
    frames = list(source.frames)
    assert (source.kind, len(frames)) == ("video", 30)
    assert {frame.name for frame in frames} == {f"http://***@{server}/{name}?token=***"}


def test_an_address_of_a_file_is_its_path(tmp_path):
    path = write_clip(tmp_path / "a b.mp4")
    assert len(read(path.as_uri())[1]) == 30
    with pytest.raises(FaceflaxError, match=r"^source: 'file://other/a\.mp4' is a file of another machine"):
        open_source("file://other/a.mp4")
    with pytest.raises(FaceflaxError, match=r"^source: 'concat://\*\*\*@x' has an unknown protocol; choose"):
        open_source("concat://a:b@x")


def test_an_address_in_an_error_has_no_password():
    with pytest.raises(FaceflaxError) as caught:
        open_source("http://me:secret@127.0.0.1:1/x?api_key=abc&size=3")
    assert str(caught.value).startswith("source: the stream 'http://***@127.0.0.1:1/x?api_key=***&size=3' cannot")


def test_a_stream_that_stalls_ends_in_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(videos, "_OPEN_SECONDS", 1.0)
    monkeypatch.setattr(videos, "_READ_SECONDS", 1.0)
    content = write_clip(tmp_path / "v.avi", 200, size=(320, 240)).read_bytes()
    done = threading.Event()

    class Stalling(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content[: len(content) // 2])
            except OSError:
                return
            done.wait(30)

    with ThreadingHTTPServer(("127.0.0.1", 0), Stalling) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            source = open_source(f"http://127.0.0.1:{http.server_port}/v.avi")
            frames = list(source.frames)
        except FaceflaxError as error:
            frames = None
            assert "cannot be opened" in str(error)  # noqa: PT017  # it may stall before the header is whole
        done.set()
        http.shutdown()
        thread.join()
    if frames is not None:
        assert 10 < len(frames) < 190
        assert capsys.readouterr().err.startswith("warning: ")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:pa@ss@host:554/a", "rtsp://***@host:554/a"),
        ("http://host/a?sig=1&x=2;password=3#t", "http://host/a?sig=***&x=2;password=***#t"),
        ("https://host/@a", "https://host/@a"),
        ("/home/me:secret@x.mp4", "/home/me:secret@x.mp4"),
    ],
)
def test_masked(address, shown):
    assert addresses.masked(address) == shown
