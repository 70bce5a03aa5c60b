import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from faceflax.errors import FaceflaxError
from faceflax.faces.face import Face
from faceflax.faces.frame import Frame
from faceflax.labels import EMOTIONS
from faceflax.media import timeline
from faceflax.media.sources import open_source
from faceflax.media.table import COLUMNS, INPUT_COLUMNS, read_rows, rows_of, write_table
from faceflax.media.timeline import plot_emotions

from . import clips

IMAGE = np.zeros((48, 64, 3), np.uint8)


def face(emotion, track, box=(10, 10, 20, 20), share=1.0):
    probabilities = np.full(7, (1 - share) / 6, np.float32)
    probabilities[EMOTIONS.index(emotion)] = share
    return Face(box, emotion, probabilities, "woman", np.float32([0.75, 0.25]), track)


def write_rows(path, rows):
    """Rows are (name, frame, faces), ten frames a second."""
    found = (
        row
        for name, frame, faces in rows
        for row in rows_of(Frame(IMAGE, name, frame, frame / 10), faces, "image" if name.endswith(".png") else "video")
    )
    write_table(path, found, COLUMNS)
    return path


def clip(name="v.avi"):
    """Face 3 is happy for five seconds and sad for five; face 7 is there from second 6 to 8 and angry."""
    for frame in range(100):
        faces = [face("happy" if frame < 50 else "sad", 3, (frame // 4, 10, 20, 20), 0.7)]
        if 60 <= frame < 80:
            faces.append(face("angry", 7))
        yield name, frame, faces


@pytest.fixture
def table(tmp_path):
    return write_rows(tmp_path / "o.csv", clip())


def test_histories_are_what_was_written(tmp_path):
    others = [("w.avi", 0, [face("fear", 3)]), ("i.png", 0, [face("fear", None)])]
    table = write_rows(tmp_path / "o.csv", [*others, *clip(), *others])
    first, second = timeline.read_histories(table, "v.avi")
    assert (first.id, second.id) == (3, 7)
    np.testing.assert_array_equal(first.frames, np.arange(100))
    np.testing.assert_allclose(first.times, np.arange(100) / 10, atol=1e-6)
    np.testing.assert_array_equal(first.boxes[9], [2, 10, 20, 20])
    np.testing.assert_array_equal(second.frames, np.arange(60, 80))
    np.testing.assert_allclose(first.emotions.sum(1), 1, atol=1e-3)
    np.testing.assert_allclose(first.shares, 0.5 * (np.eye(7)[3] + np.eye(7)[4]))
    np.testing.assert_allclose(second.shares, np.eye(7)[0])
    np.testing.assert_allclose(second.genders, [[0.75, 0.25]] * 20)
    assert timeline.read_histories(table, "i.png") == timeline.read_histories(table, "none") == []


def pixel(figure, axes, seconds, height):
    """The drawn colour at a point of a panel."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    sample = np.asarray(canvas.buffer_rgba())
    x, y = axes.transData.transform((seconds, height))
    return sample[sample.shape[0] - 1 - round(y), round(x), :3] / 255


def test_timeline_shows_each_emotion_when_it_was(table):
    figure = timeline.timeline(timeline.read_histories(table, "v.avi"), seconds=12.0)
    upper, lower = figure.axes
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("face 3", "face 7")
    white = (1, 1, 1)
    for axes, seconds, height, expected in (
        (upper, 2.5, 0.5, to_rgb(timeline.COLORS["happy"])),
        (upper, 7.5, 0.5, to_rgb(timeline.COLORS["sad"])),
        (upper, 2.5, 0.02, to_rgb(timeline.COLORS["angry"])),  # 5% of what is not happy
        (upper, 2.5, 0.98, to_rgb(timeline.COLORS["neutral"])),
        (upper, 11.0, 0.5, white),
        (lower, 3.0, 0.5, white),
        (lower, 7.0, 0.5, to_rgb(timeline.COLORS["angry"])),
        (lower, 9.0, 0.5, white),
    ):
        np.testing.assert_allclose(pixel(figure, axes, seconds, height), expected, atol=0.02)


@pytest.mark.parametrize("frames", [[0], [5], [0, 1], range(5000)])
def test_timeline_of_any_length_has_no_holes(tmp_path, frames):
    table = write_rows(tmp_path / "o.csv", [("v", frame, [face("happy", 0)]) for frame in frames])
    (track,) = timeline.read_histories(table, "v")
    figure = timeline.timeline([track])
    (axes,) = figure.axes
    for share in (0.1, 0.37, 0.5, 0.93):
        seconds = track.times[0] + share * (track.times[-1] - track.times[0] + 0.05)
        np.testing.assert_allclose(pixel(figure, axes, seconds, 0.5), to_rgb(timeline.COLORS["happy"]), atol=0.02)


def write_clip(path, frames=100):
    pictures = [np.full((48, 64, 3), 2 * index, np.uint8) for index in range(frames)]
    return clips.write_clip(path.with_suffix(".avi"), frames, pictures=pictures).rename(path)


def test_thumbnails_are_of_their_frames(table, tmp_path):
    tracks = timeline.read_histories(table, "v.avi")
    samples = timeline.thumbnails(open_source(str(write_clip(tmp_path / "v.avi"))).frames, tracks)
    for track in tracks:
        rows = [row for row, _ in samples[track.id]]
        assert (rows[0], rows[-1], len(rows)) == (0, len(track.frames) - 1, 6)
        for row, sample in samples[track.id]:
            assert sample.shape == (160, 160, 3)
            np.testing.assert_allclose(sample, 2 * track.frames[row], atol=4)


def record(name, kind="video", status="done", reason=None, frames=1, faces=1, seconds=None):
    values = (1, name, kind, status, reason, frames, faces, seconds)
    return dict(zip(INPUT_COLUMNS.names, values, strict=True))


def opener(path):
    @contextmanager
    def opened():
        source = open_source(str(path))
        yield source
        source.frames.close()

    return opened


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("faces", [False, True])
def test_page_needs_no_other_file(tmp_path, suffix, faces):
    rows = [
        *clip("<b>&.avi"),
        ("i.png", 0, [face("sad", None), face("happy", None)]),
        *[("short.avi", frame, [face("sad", 0)]) for frame in range(5)],
        ("j.png", 0, [face("sad", None)]),
    ]
    table = write_rows(tmp_path / f"o{suffix}", rows)
    videos = {name: opener(write_clip(tmp_path / file)) for name, file in (("<b>&.avi", "1.avi"), ("short.avi", "2"))}
    records = [
        *(record("<b>&.avi", seconds=10.0), record("i.png", "image"), record("short.avi"), record("j.png", "image")),
        record("k.png", "image", "no face", faces=0),
        record("l.png", "image", "failed", "cannot be read <at> all", frames=0, faces=0),
    ]
    timeline.write_page(tmp_path / "o.html", table, records, videos if faces else None)
    page = (tmp_path / "o.html").read_text()
    assert "&lt;b&gt;&amp;.avi" in page
    assert "<b>&" not in page
    kinds = {"data:image/png;base64"} | ({"data:image/jpeg;base64"} if faces else set())
    assert set(re.findall(r'(?:src|href)="([^,]*)', page)) == kinds
    assert page.count("data:image/png") == 1
    assert page.count("data:image/jpeg") == (12 if faces else 0)
    assert "<tr><td>frames</td><td>100</td>" in page
    assert "<tr><td>happy</td><td>50%</td><td>0%</td></tr>" in page
    assert "0:06 to 0:07.9; perceived as a woman (75%)" in page
    assert "No face was found in 10 frames or more" in page
    assert "Images with a face: 2 of 3. Faces: 3." in page
    assert "<td>sad</td><td>2</td><td>67%</td>" in page
    assert "<td>l.png</td><td>failed</td><td>cannot be read &lt;at&gt; all</td>" in page
    assert list(Path(tmp_path).glob(".o.*")) == []


def test_a_page_reads_its_table_once(tmp_path, monkeypatch):
    names = [f"{index:03}.avi" for index in range(40)]
    table = write_rows(tmp_path / "o.csv", [(name, frame, [face("sad", 0)]) for name in names for frame in range(3)])
    read = []
    rows = timeline.read_rows
    monkeypatch.setattr(timeline, "read_rows", lambda path: (read.append(path), rows(path))[1])
    timeline.write_page(tmp_path / "o.html", table, [record(name) for name in names])
    assert read == [table]
    assert (tmp_path / "o.html").read_text().count("<h2>") == 40


def test_a_plot_in_one_line(table):
    rows = list(read_rows(table))
    for given in (rows, pd.DataFrame(rows)):
        upper, lower = plot_emotions(given).axes
        assert (upper.get_ylabel(), lower.get_ylabel()) == ("face 3", "face 7")
    with pytest.raises(FaceflaxError, match=r"^rows: there is no face of a video in them"):
        plot_emotions(rows, "other.avi")
    with pytest.raises(FaceflaxError, match=r"^name: the rows are of several videos; choose one of: v\.avi, w\.avi"):
        plot_emotions(rows + [row | {"input": "w.avi"} for row in rows])


def test_of_many_faces_those_seen_longest_are_shown(tmp_path):
    rows = [("v", frame, [face("sad", n) for n in range(20) if frame < 20 + n]) for frame in range(40)]
    tracks = timeline.read_histories(write_rows(tmp_path / "o.csv", rows), "v")
    section = timeline.section("v", tracks)
    assert re.findall(r"<h3>Face (\d+)</h3>", section) == [str(n) for n in range(8, 20)]
    assert "8 that were seen more briefly are left out" in section
