"""``faceflax.analyze`` and ``faceflax.iter_rows`` against the analyzers that they stand on."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import faceflax
from faceflax import media
from faceflax.batch import Reading
from faceflax.errors import FaceflaxError
from faceflax.faces.frame import Frame
from faceflax.media import demo
from faceflax.media.sources import Source
from faceflax.media.writing import VideoFile


def clip(path, count=40):
    video = VideoFile(path, demo.FPS)
    for index, image in zip(range(count), demo.video(), strict=False):
        video.write(Frame(image, "", index, index / demo.FPS), image)
    video.close()
    return path


def test_images_in_memory_are_what_the_analyzer_finds():
    photo = demo.photograph()
    table = faceflax.analyze([photo, np.zeros_like(photo), photo[:, ::-1]], preset="fast", every_frame=True)
    analyzer = faceflax.FaceAnalyzer(preset="fast")
    assert list(table.columns) == list(media.COLUMNS.names)
    assert list(table.input) == ["0", "1", "2"]
    assert table.face.isna().tolist() == [False, True, False]
    for row, image in ((0, photo), (2, photo[:, ::-1])):
        (face,) = analyzer(image)
        assert (table.x[row], table.y[row], table.width[row], table.height[row]) == face.box
        assert table.emotion[row] == face.emotion
        np.testing.assert_allclose(
            table.loc[row, [f"emotion_{name}" for name in faceflax.EMOTIONS]].to_numpy(float),
            face.emotion_probabilities,
            atol=1e-4,
        )
    assert [record["status"] for record in table.attrs["inputs"]] == ["done", "no face", "done"]


def test_a_large_photograph_is_searched_reduced_and_its_boxes_are_its_own(tmp_path):
    photo = demo.photograph()
    large = Image.fromarray(photo[..., ::-1]).resize((4 * 512, 4 * 600))
    large.save(tmp_path / "large.jpg")
    (face,) = faceflax.FaceAnalyzer(preset="fast")(photo)
    table = faceflax.analyze(tmp_path / "large.jpg", preset="fast", longest=600)
    box = table.loc[0, ["x", "y", "width", "height"]].to_numpy(int)
    np.testing.assert_allclose(box, 4 * np.array(face.box), atol=12)
    np.testing.assert_allclose([table.nose_x[0], table.nose_y[0]], 4 * face.landmarks[2], atol=8)


def test_a_film_from_its_file_and_from_memory(tmp_path):
    path = clip(tmp_path / "clip.mp4")
    rows = list(faceflax.iter_rows(str(path), preset="fast", every=4))
    assert {row["frame"] for row in rows} == set(range(0, 40, 4))
    assert {row["track"] for row in rows} == {0}
    assert {row["kind"] for row in rows} == {"video"}
    frames = [frame.image for frame in media.open_source(str(path)).frames]
    again = list(faceflax.iter_rows(frames, video=True, preset="fast", every=4))
    for row, other in zip(rows, again, strict=True):
        assert {name: row[name] for name in row if name not in ("input", "time")} == {
            name: other[name] for name in other if name not in ("input", "time")
        }
    figure = faceflax.plot_emotions(rows)
    assert figure.axes[0].get_ylabel() == "face 0"


def test_iteration_can_end_early(tmp_path):
    rows = faceflax.iter_rows(clip(tmp_path / "clip.mp4"), preset="fast")
    assert next(rows)["frame"] == 0
    rows.close()


def test_bad_inputs_are_in_the_log_and_in_the_attributes(tmp_path, caplog):
    (tmp_path / "bad.jpg").write_text("text")
    Image.fromarray(demo.photograph()[..., ::-1]).save(tmp_path / "good.png")
    table = faceflax.analyze(tmp_path, preset="fast")
    assert isinstance(table, pd.DataFrame)
    assert len(table) == 1
    assert {record["status"] for record in table.attrs["inputs"]} == {"done", "failed"}
    assert "bad.jpg: cannot be read as an image" in caplog.text
    with pytest.raises(FaceflaxError, match=r"^inputs: there are none"):
        faceflax.analyze([])
    with pytest.raises(FaceflaxError, match=r"^every: 0 is not a number of frames"):
        faceflax.analyze(tmp_path, every=0)


def test_no_face_at_all_is_an_empty_table():
    table = faceflax.analyze([np.zeros((64, 64, 3), np.uint8)], preset="fast")
    assert table.empty
    assert list(table.columns) == list(media.COLUMNS.names)
    assert str(table.dtypes["frame"]) == "Int64"


@pytest.mark.parametrize(
    ("reading", "times", "kept"),
    [
        (Reading(), np.arange(5) / 10, range(5)),
        (Reading(every=2), np.arange(5) / 10, [0, 2, 4]),
        (Reading(fps=5), np.arange(10) / 10, [0, 2, 4, 6, 8]),
        (Reading(fps=4), np.arange(10) / 10, [0, 3, 5, 8]),
        (Reading(fps=100), np.arange(4) / 10, range(4)),
        (Reading(fps=10), np.array([0, 0.01, 0.02, 3, 3.01, 3.2]), [0, 3, 5]),
        (Reading(every=2, fps=2.5), np.arange(10) / 10, [0, 4, 8]),
    ],
)
def test_which_frames_are_wanted(reading, times, kept):
    wanted = reading.wanted() or (lambda index, time: True)
    assert [index for index, time in enumerate(times) if wanted(index, float(time))] == list(kept)
    source = Source("video", (f for f in ()), 10.0, len(times), len(times) / 10)
    if np.allclose(np.diff(times), 0.1):
        assert reading.expected(source) == len(list(kept))
