import subprocess
import sys

import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.faces.frame import Frame
from faceflax.media import outputs
from faceflax.media.sources import Source

IMAGE = np.full((48, 64, 3), 100, np.uint8)


def frame(name="clip", index=0, time=0.0):
    return Frame(IMAGE, name, index, time)


def test_a_device_that_takes_nothing_is_named():
    with open("/dev/full", "wb", buffering=0) as file:
        lines = outputs.Lines("csv", file)
        with pytest.raises(
            FaceflaxError, match=r"^csv: cannot write more than 0 bytes \(No space left on device\); make room"
        ):
            lines.write("a,b\n")


def test_what_does_not_fit_is_taken_back_whole(tmp_path):
    """A limit on the size of files lets some of the last write through."""
    script = """
import resource, sys
from faceflax.media.outputs import Lines
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with open(sys.argv[1], "wb", buffering=0) as file:
    lines = Lines("csv", file)
    for _ in range(100):
        lines.write("0123456\\n" * 3)
"""
    path = tmp_path / "o.csv"
    done = subprocess.run(
        [sys.executable, "-c", script, path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "FaceflaxError: csv: cannot write more than 984 bytes (File too large)" in done.stderr
    assert path.read_bytes() == b"0123456\n" * 3 * (1000 // 24)


def test_a_video_that_could_not_be_finished_is_named(tmp_path):
    video = outputs.VideoFile(tmp_path / "o.mp4", 10.0)
    video.write(frame(), IMAGE)
    (tmp_path / "o.mp4").unlink()
    with pytest.raises(FaceflaxError, match=r"output: the video .*o\.mp4\' could not be finished and may not play"):
        video.close()


def test_annotated_copies_of_an_image_and_of_a_folder(tmp_path):
    image, folder = (Source(kind, (f for f in ())) for kind in ("image", "folder"))
    with outputs.annotated(image, tmp_path / "o.png") as write:
        write(frame(), IMAGE)
    with outputs.annotated(folder, tmp_path) as write:
        write(frame(name="a.bmp"), IMAGE)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bmp", "o.png"]


def test_an_image_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FaceflaxError, match=r"output: cannot write .*o\.png' \(Not a directory\)"):
        outputs.write_image(tmp_path / "file" / "o.png", IMAGE)
    with pytest.raises(FaceflaxError, match=r"output: cannot write .*o\.xyz'"):
        outputs.write_image(tmp_path / "o.xyz", IMAGE)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("source", "kind", "output", "message"),
    [
        ("demo", "video", "o.png", r"o\.png' is not .*a video.*\.mp4 or \.webm or \.avi"),
        ("0", "camera", "o", r"not .*a video"),
        ("a.png", "image", "o.mp4", r"o\.mp4' is not .*an image.*\.png"),
        ("faces", "folder", "file", "for a folder of images name a folder"),
        ("file", "video", "file", "the source itself"),
        ("demo", "video", "file/o.mp4", "cannot write"),
    ],
)
def test_bad_output_is_named_before_the_work(tmp_path, monkeypatch, source, kind, output, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FaceflaxError, match=f"^output: .*{message}"):
        outputs.check_output(source, kind, tmp_path / output)


def test_bad_table_is_named_before_the_work(tmp_path):
    with pytest.raises(FaceflaxError, match=r"^jsonl: .*o\.csv' does not end in \.jsonl"):
        outputs.check_table("jsonl", tmp_path / "o.csv", ".jsonl")
