"""The one gate for what users name: only files and folders are opened, and only as much as can be right is read."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from faceflax import files, preprocessing, pretrained
from faceflax.batch import find_inputs
from faceflax.cli import evaluate
from faceflax.cli.detection import DetectionOptions
from faceflax.errors import FaceflaxError
from faceflax.faces.yunet import YuNetDetector
from faceflax.media import images, sources

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs devices, pipes and sockets of a POSIX system")


@pytest.fixture(params=["device", "pipe", "socket", "folder", "long", "zero byte", "missing", "huge"])
def odd(request, tmp_path, monkeypatch):
    """What a user may name that is no file to read, with another name for it that ends as a network does."""
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    name = Path("odd")
    match request.param:
        case "device":
            name.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(name)
        case "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(name))
        case "folder":
            name.mkdir()
        case "huge":
            with name.open("wb") as file:
                file.truncate(2**40)
        case "long":
            name = Path("x" * 300)
        case "zero byte":
            name = Path("a\0b")
    if request.param not in ("long", "zero byte", "missing"):
        for suffix in (".safetensors", ".json"):
            Path(f"odd{suffix}").symlink_to(name)
    limit = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)  # ends a process that waits for the other end of a pipe, or for the end of a device
    yield name
    signal.alarm(0)
    signal.signal(signal.SIGALRM, limit)


def weights(file):
    pretrained.read(file.with_suffix(".safetensors") if file.name == "odd" else f"{file}.safetensors")


def record(file):
    pretrained.record.read_record(
        file.with_suffix(".safetensors") if file.name == "odd" else Path(f"{file}.safetensors")
    )


DOORS = {
    "file": lambda file: files.read("x", file, 2**20),
    "weights": weights,
    "record": record,
    "keras": lambda file: pytest.importorskip("faceflax.pretrained.keras").read(file),
    "YuNet": lambda file: YuNetDetector(file),
    "detector": lambda file: DetectionOptions(detector=str(file)).record(),
    "image": lambda file: images.read_image(file),
    "grey image": lambda file: preprocessing.read_grey("source", file),
    "source": lambda file: sources.open_source(str(file)),
    "without": lambda file: evaluate._read_ids(file),
    "soft labels": lambda file: pytest.importorskip("faceflax.training.targets").read_soft_labels(file, (2, 2)),
    "FER-2013": lambda file: list(pytest.importorskip("faceflax.data.fer2013").csv_rows(file)),
    "FER+": lambda file: pytest.importorskip("faceflax.data.ferplus").read_votes("source", file),
}
"""What opens a file that a user names."""


@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_file_to_read_is_refused_in_a_line(door, odd):
    if door == "source" and os.path.isdir(odd):
        pytest.skip("a folder is a source")
    with pytest.raises(FaceflaxError) as caught:
        DOORS[door](odd)
    assert "\n" not in str(caught.value)


def test_inputs_that_cannot_be_opened_are_counted(odd):
    try:
        _, others = find_inputs([odd])
    except FaceflaxError as error:
        assert "there is no" in str(error) or "no images, videos or archives in" in str(error)  # noqa: PT017
    else:
        assert [record.status for record in others] == ([] if odd.is_file() else ["failed"])  # a huge one in its turn


def test_nothing_is_written_in_place_of_a_device_or_into_a_name_that_cannot_be(odd):
    if odd.name == "odd" and (odd.is_file() or not odd.exists()):
        assert files.writable_file("output", odd) == odd
        return
    with pytest.raises(FaceflaxError, match=r"output: cannot write"):
        files.writable_file("output", odd)


def test_what_is_read_is_whole_and_no_more_than_is_right(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"12345")
    assert files.read("x", file, 5) == b"12345"
    with pytest.raises(FaceflaxError, match=r"x: '.*a.txt' has 5 bytes, more than can be right; shorten it"):
        files.read("x", file, 4, remedy="shorten it")
