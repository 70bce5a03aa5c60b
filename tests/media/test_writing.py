"""Annotated videos: their time, their sound, and what is left of them after a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from faceflax.faces.frame import Frame
from faceflax.media import outputs
from faceflax.media.sources import Source, open_source

from .clips import levels, write_clip

ROOT = Path(__file__).resolve().parents[2]


def copy(path, output, frames=None):
    source = open_source(str(path))
    with outputs.annotated(source, output) as write:
        for index, frame in enumerate(source.frames):
            if index == frames:
                break
            write(frame, frame.image)
    source.frames.close()
    return output


def tone(path):
    """The sound's samples at 48 kHz, one channel, from the first picture on."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", 48000)
        pieces = [p for frame in container.decode(audio=0) for p in resampler.resample(frame)]
        pieces += resampler.resample(None)
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces])


def sound_codec(path):
    with av.open(str(path)) as container:
        return container.streams.audio[0].codec_context.name if container.streams.audio else None


@pytest.mark.parametrize(
    ("source", "output", "codec"),
    [
        ("v.mp4", "o.mp4", "aac"),
        ("v.webm", "o.webm", "opus"),
        ("v.mp4", "o.webm", "opus"),
        ("v.webm", "o.mp4", "opus"),
        ("v.mkv", "o.mp4", "aac"),
        ("v.mp4", "o.avi", "pcm_s16le"),
    ],
)
def test_the_sound_is_kept(tmp_path, source, output, codec):
    path = write_clip(tmp_path / source, 30, tone=True)
    written = copy(path, tmp_path / output)
    assert sound_codec(written).removeprefix("lib") == codec
    samples = tone(written)
    assert len(samples) / 48000 == pytest.approx(3, abs=0.15)
    middle = samples[24_000:72_000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() == 440
    assert len(list(open_source(str(written)).frames)) == 30


def test_a_copied_sound_is_the_same_to_the_byte(tmp_path):
    def packets(path):
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(audio=0) if packet.size]

    path = write_clip(tmp_path / "v.mp4", 30, tone=True)
    written = packets(copy(path, tmp_path / "o.mp4"))
    whole = packets(path)
    assert len(written) >= len(whole) - 2  # what lies before the first picture is left out
    assert written == whole[len(whole) - len(written) :]


def test_the_sound_ends_with_the_pictures(tmp_path):
    written = copy(write_clip(tmp_path / "v.mp4", 50, tone=True), tmp_path / "o.mp4", frames=10)
    assert len(tone(written)) / 48000 == pytest.approx(1, abs=0.1)


def test_a_film_without_sound_stays_silent(tmp_path):
    assert sound_codec(copy(write_clip(tmp_path / "v.mp4"), tmp_path / "o.mp4")) is None


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "h264"), (".webm", "vp9"), (".avi", "mjpeg")])
def test_codec_time_and_colours_are_kept(tmp_path, suffix, codec):
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:, :32], picture[:, 32:64], picture[:, 64:] = (200, 40, 40), (40, 200, 40), (40, 40, 200)
    times = np.array([0, 0.1, 0.2, 0.7, 0.8]) if suffix == ".avi" else np.array([0, 0.04, 0.5, 0.533, 2.25])
    frames = (Frame(picture, "clip", index, float(time)) for index, time in enumerate(times))
    source = Source("video", frames, fps=10.0)
    with outputs.annotated(source, tmp_path / f"o{suffix}") as write:
        for frame in source.frames:
            write(frame, frame.image)
    with av.open(str(tmp_path / f"o{suffix}")) as container:
        context = container.streams.video[0].codec_context
        assert context.codec.canonical_name == codec
        assert context.pix_fmt in ("yuv420p", "yuvj420p")  # what browsers play
        assert next(container.decode(video=0)).time == 0  # as the sound does
    read = list(open_source(str(tmp_path / f"o{suffix}")).frames)
    np.testing.assert_allclose([frame.time for frame in read], times, atol=1.1e-3)
    for column in (16, 48, 80):
        np.testing.assert_allclose(read[2].image[24, column], picture[24, column], atol=10)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_after_a_kill_what_was_written_plays(tmp_path, suffix):
    script = """
import sys, time
import numpy as np
from pathlib import Path
from faceflax.faces.frame import Frame
from faceflax.media.writing import VideoFile
video = VideoFile(Path(sys.argv[1]), 25.0)
rng = np.random.default_rng(0)
for index in range(1000):
    image = rng.integers(0, 256, (144, 176, 3), np.uint8)
    video.write(Frame(image, "", index, index / 25), image)
    print(index, flush=True)
"""
    path = tmp_path / f"o{suffix}"
    process = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    for line in process.stdout:
        if int(line) == 200:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.communicate()
    frames = list(open_source(str(path)).frames)
    assert 60 < len(frames) < 300
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(len(frames)) / 25, atol=2e-3)


def test_names_that_are_not_utf8(tmp_path):
    try:
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.mp4"))
        path.touch()
    except OSError:
        pytest.skip("the file system does not have such names")
    copy(write_clip(tmp_path / "v.mp4"), path)
    np.testing.assert_allclose([frame.image.mean() for frame in open_source(str(path)).frames], levels(30), atol=6)
