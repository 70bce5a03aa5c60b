import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax.data import load
from faceflax.errors import FaceflaxError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "scripts/prepare_data.py"))


@pytest.fixture
def images(tmp_path):
    for split, count in (("train", 3), ("validation", 2), ("test", 1)):
        for name in ("left", "right"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(folder / f"{i}.png"), np.zeros((40, 40), np.uint8))
    return tmp_path / "images"


def test_it_prints_the_counts_and_the_next_command_and_overwrites_only_when_told(script, images, tmp_path, capsys):
    options = script["Options"](dataset="folder", source=images, data_dir=tmp_path / "tfds", name="sides")
    script["main"](options)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("folder/sides is prepared in ")
    table = [line.split() for line in lines]
    assert ["class", "train", "validation", "test"] in table
    assert ["left", "3", "2", "1"] in table
    assert ["right", "3", "2", "1"] in table
    assert ["total", "6", "4", "2"] in table
    assert lines[-1].startswith("next: faceflax train --arch mini_xception --dataset folder/sides --data-dir ")

    (images / "train" / "left" / "0.png").unlink()
    script["main"](options)
    assert "already prepared" in capsys.readouterr().out
    assert len(load("folder/sides", "train", image_size=32, data_dir=tmp_path / "tfds").labels) == 6
    script["main"](
        script["Options"](dataset="folder", source=images, data_dir=tmp_path / "tfds", name="sides", overwrite=True)
    )
    assert "already prepared" not in capsys.readouterr().out
    assert len(load("folder/sides", "train", image_size=32, data_dir=tmp_path / "tfds").labels) == 5


def test_skipped_images_are_named_and_counted_then_and_later(script, images, tmp_path, capsys):
    (images / "train" / "left" / "1.png").write_bytes(b"")
    options = dict(dataset="folder", source=images, data_dir=tmp_path / "tfds")
    with pytest.raises(FaceflaxError, match=r"left/1\.png'; .* leave damaged rows out with skip_corrupt"):
        script["main"](script["Options"](**options))
    for _ in range(2):
        script["main"](script["Options"](**options, skip_corrupt=True))
        lines = capsys.readouterr().out.splitlines()
        assert "note: damaged rows left out of the train split (1): train/left/1.png" in lines
        assert ["skipped", "1", "0", "0"] in [line.split() for line in lines]
        assert ["total", "5", "4", "2"] in [line.split() for line in lines]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "fer"}, "^dataset: unknown 'fer'; choose one of"),
        ({"dataset": "fer2013"}, "^source: 'fer2013' needs the publisher's files.*https://www.kaggle.com"),
        ({"dataset": "fairface", "source": Path("nowhere")}, "^source: nothing at 'nowhere'.*joojs/fairface"),
        ({"dataset": "fer2013", "name": "x"}, "^name: 'x' is for your own images only"),
    ],
)
def test_bad_options(script, options, message, tmp_path):
    with pytest.raises(FaceflaxError, match=message):
        script["main"](script["Options"](data_dir=tmp_path, **options))


def test_the_command_exits_with_2_and_one_line(tmp_path):
    command = [sys.executable, ROOT / "scripts/prepare_data.py", "imdb", "--source", tmp_path, "--data-dir", tmp_path]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | {"COLUMNS": "80"}, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: --source: no imdb.mat in '{tmp_path}'; https://data.vision.ee.ethz.ch")
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []
