"""The loop with a source made by the test and an analyzer that finds one face, told by the frame's brightness."""

import csv

import cv2
import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.vision import loop
from faceflax.vision.face import Face
from faceflax.vision.sources import Frame, Source, open_source


def analyzer(image):
    if image.mean() < 50:
        return []
    emotions = np.float32([0, 0, 0.25, 0.5, 0.125, 0.125, 0])
    return [Face((1, 2, 30, 40), "happy", emotions, "woman", np.float32([0.75, 0.25]))]


TENTHS = tuple(index / 10 for index in range(10))


def film(times=TENTHS, fail_after=None, error=KeyboardInterrupt):
    def frames():
        for index, time in enumerate(times):
            if index == fail_after:
                raise error
            yield Frame(np.full((48, 64, 3), 20 * index, np.uint8), "film", index, float(time))

    return Source("video", frames(), fps=10.0, count=len(times))


def read_video(path):
    return [frame.image for frame in open_source(str(path)).frames]


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_video_and_rows(tmp_path):
    output, table = tmp_path / "o.mp4", tmp_path / "o.csv"
    summary = loop.run(film(), analyzer, output=output, csv_file=table, overlay=lambda image, faces: image)
    assert (summary.frames, summary.frames_with_face) == (10, 7)
    np.testing.assert_allclose([image.mean() for image in read_video(output)], 20 * np.arange(10), atol=4)
    rows = read_rows(table)
    assert [row["frame"] for row in rows] == ["3", "4", "5", "6", "7", "8", "9"]
    assert tuple(rows[0]) == loop.CSV_COLUMNS
    first = {"name": "film", "time": "0.300", "face": "0", "x": "1", "y": "2", "width": "30", "height": "40"}
    labels = {"emotion": "happy", "emotion_happy": "0.5000", "gender": "woman", "gender_man": "0.2500"}
    assert rows[0].items() >= (first | labels).items()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.csv", "o.mp4"]


def test_overlay_gets_frame_and_faces_and_its_picture_is_written(tmp_path):
    output = tmp_path / "o.avi"
    loop.run(film(), analyzer, output=output, overlay=lambda image, faces: np.full_like(image, 200 * len(faces)))
    np.testing.assert_allclose([image.mean() for image in read_video(output)], [0] * 3 + [200] * 7, atol=4)


def test_a_slow_source_keeps_its_clock_in_the_video(tmp_path):
    output = tmp_path / "o.mp4"
    loop.run(film([0, 0.5, 0.6]), analyzer, output=output, overlay=lambda image, faces: image)
    assert len(read_video(output)) == 7  # 0.6 seconds at ten frames a second, both ends included


def test_max_frames_closes_the_source(tmp_path):
    source = film()
    summary = loop.run(source, analyzer, csv_file=tmp_path / "o.csv", max_frames=4)
    assert summary.frames == 4
    assert list(source.frames) == []


def test_interrupt_keeps_what_was_written(tmp_path):
    output, table = tmp_path / "o.mp4", tmp_path / "o.csv"
    output.write_text("older")
    with pytest.raises(KeyboardInterrupt):
        loop.run(film(fail_after=6), analyzer, output=output, csv_file=table)
    assert len(read_video(output)) == 6
    assert [row["frame"] for row in read_rows(table)] == ["3", "4", "5"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.csv", "o.mp4"]


def test_failure_keeps_what_was_there_before(tmp_path):
    output, table = tmp_path / "o.mp4", tmp_path / "o.csv"
    output.write_text("older video")
    table.write_text("older table")
    with pytest.raises(RuntimeError):
        loop.run(film(fail_after=6, error=RuntimeError), analyzer, output=output, csv_file=table)
    assert output.read_text() == "older video"
    assert table.read_text() == "older table"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.csv", "o.mp4"]


def test_folder_gives_a_folder_with_the_same_names(tmp_path):
    faces = tmp_path / "faces"
    faces.mkdir()
    for name, level in (("a.png", 0), ("b.bmp", 200)):
        cv2.imwrite(str(faces / name), np.full((48, 64, 3), level, np.uint8))
    output = tmp_path / "out"
    loop.check_output(str(faces), "folder", output)
    loop.run(open_source(str(faces)), analyzer, output=output, csv_file=tmp_path / "o.csv")
    assert sorted(file.name for file in output.iterdir()) == ["a.png", "b.bmp"]
    assert (cv2.imread(str(output / "a.png")) == 0).all()
    assert not (cv2.imread(str(output / "b.bmp")) == 200).all()  # a box is drawn
    assert [row["name"] for row in read_rows(tmp_path / "o.csv")] == ["b.bmp"]


@pytest.mark.parametrize(
    ("source", "kind", "output", "message"),
    [
        ("demo", "video", "o.png", r"o\.png' is not .*a video.*\.mp4 or \.avi"),
        ("0", "camera", "o", r"not .*a video"),
        ("a.png", "image", "o.mp4", r"o\.mp4' is not .*an image.*\.png"),
        ("faces", "folder", "file", "for a folder of images name a folder"),
        ("file", "video", "file", "the --source itself"),
        ("demo", "video", "file/o.mp4", "cannot write"),
    ],
)
def test_bad_output_is_named_before_the_work(tmp_path, monkeypatch, source, kind, output, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FaceflaxError, match=f"--output: .*{message}"):
        loop.check_output(source, kind, tmp_path / output)
