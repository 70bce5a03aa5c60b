"""Near-duplicates of drawn faces are seen through mirroring, cutting, light and watermarks; other faces are not."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments.near_duplicates import Options, best_match, main
from faceflax.data.loading import make_builder
from faceflax.data.synthetic import render_faces
from faceflax.errors import FaceflaxError

SHIPPED = Path(__file__).resolve().parents[2] / "experiments/near_duplicates_fer2013.json"


def cut(image, down=0, right=0, scale=1.0):
    """The picture as if it had been cut a little elsewhere."""
    matrix = np.array([[scale, 0, right + 24 * (1 - scale)], [0, scale, down + 24 * (1 - scale)]])
    return cv2.warpAffine(image, matrix, (48, 48), borderMode=cv2.BORDER_REPLICATE)


@pytest.fixture(scope="module")
def faces():
    return render_faces(count=80, seed=11, image_size=48).images[..., 0]


def test_each_change_is_seen_through(faces):
    changed = [
        faces[7],
        faces[8][:, ::-1],
        cut(faces[9], down=3, right=-2),
        cut(faces[10], scale=1.12),
        cut(faces[11][:, ::-1], down=-3, scale=0.9),
        (faces[12] * 0.6 + 30).astype(np.uint8),
        cv2.putText(faces[13].copy(), "stock", (6, 40), 0, 0.4, 200, 1),
    ]
    scores, partners = best_match(np.stack(changed), faces)
    assert partners.tolist() == [7, 8, 9, 10, 11, 12, 13]
    assert (scores > Options.threshold).all()
    assert scores[0] > 0.9999


def test_noise_is_not_taken_for_a_duplicate(faces):
    noise = np.random.default_rng(0).integers(0, 256, (5, 48, 48), np.uint8)
    assert best_match(noise, faces)[0].max() < 0.5


def test_the_command_writes_the_rows_that_evaluate_takes(faces, tmp_path, capsys):
    noise = np.random.default_rng(1).integers(0, 256, (2, 48, 48), np.uint8)
    images = [(f, "Training") for f in faces[:40]] + [(noise[0], "PublicTest"), (faces[3], "PublicTest")]
    images += [(cut(faces[5], right=2), "PrivateTest"), (noise[1], "PrivateTest")]
    lines = [f"{i % 7},{' '.join(map(str, image.ravel()))},{usage}" for i, (image, usage) in enumerate(images)]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *lines]))
    make_builder("fer2013", source=tmp_path, data_dir=tmp_path / "tfds").prepare()
    main(Options(tmp_path / "out" / "near.json", data_dir=tmp_path / "tfds"))
    assert json.loads((tmp_path / "out" / "near.json").read_text()) == [41, 42]
    assert "PublicTest: 1 of 2 are near-duplicates" in capsys.readouterr().out
    with pytest.raises(FaceflaxError, match=r"^threshold: 1\.5 is not a correlation"):
        main(Options(tmp_path / "near.json", threshold=1.5))


def test_the_shipped_rows_are_of_the_test_splits():
    rows = json.loads(SHIPPED.read_text())
    assert rows == sorted(set(rows))
    assert (len([row for row in rows if 28_709 <= row < 32_298]), len(rows)) == (1013, 2026)
    assert rows[0] >= 28_709
    assert rows[-1] < 35_887
