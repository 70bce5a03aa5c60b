"""docs/train_your_own.md, command for command, on two hundred drawn pictures and a short video."""

import csv
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from faceflax import pretrained
from faceflax.data.synthetic import render_faces
from faceflax.media import demo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path):
    """A folder with the pictures, half of them with a dark bar over the eyes, and a video."""
    for number, face in enumerate(render_faces(200, seed=8, image_size=48).images):
        image = face.copy()
        label = ("glasses", "none")[number % 2]
        if label == "glasses":
            image[16:24, 6:42] = 0
        file = tmp_path / "pictures" / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), image)
    writer = cv2.VideoWriter(str(tmp_path / "video.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (640, 360))
    for frame in islice(demo.video(), 10):
        writer.write(frame)
    writer.release()
    return tmp_path


@pytest.mark.slow
def test_the_tutorial_goes_from_pictures_to_a_labelled_video(place):
    page = (ROOT / "docs/train_your_own.md").read_text()
    commands = [line for block in re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S) for line in block.splitlines()]
    assert [line.split()[1] for line in commands] == ["prepare-data", "train", "evaluate", "live", "analyze"]
    environment = os.environ | {"TFDS_DATA_DIR": str(place / "tfds")}
    for line in commands:
        words = [sys.executable, "-m", *line.split()]
        done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    info = pretrained.weights_info(place / "runs/glasses/weights.safetensors")
    assert info.labels == ("glasses", "none")
    assert info.accuracy["validation"] > 0.8
    assert "glasses" in (place / "report/index.html").read_text()
    with (place / "faces.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert {row["task"] for row in rows} <= {"glasses", "none"}
    assert all(0.5 <= float(row["task_probability"]) <= 1 for row in rows)
    with av.open(str(place / "labelled.mp4")) as video:
        frames = [frame.to_ndarray(format="bgr24") for frame in video.decode(video=0)]
    assert len(frames) == 10
    plain = next(iter(demo.video()))
    assert np.abs(frames[0].astype(int) - plain).max() > 100  # a box and labels
