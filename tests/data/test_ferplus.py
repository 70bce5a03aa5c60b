"""FER+ by majority vote: labels, splits and what is left out, for both ways in which copies of FER-2013 order rows."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from faceflax.data import load
from faceflax.data.ferplus import COLUMNS
from faceflax.data.loading import make_builder
from faceflax.errors import FaceflaxError
from faceflax.labels import EMOTIONS

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
COUNT = 60
USAGES = ["Training"] * 40 + ["PublicTest"] * 8 + ["PrivateTest"] * 12
TAKEN_OUT = (3, 17, 44)
"""Lines of FER+ without an image's name."""


def votes(**counts):
    return [counts.get(column, 0) for column in COLUMNS]


SPECIAL = {  # row: its votes
    5: votes(happiness=5, neutral=5),  # no more than half
    6: votes(happiness=5, neutral=4, fear=1),  # the single vote does not count
    7: votes(contempt=7, anger=3),
    8: votes(unknown=6, sadness=4),
    9: votes(NF=10),
    10: votes(anger=1, fear=1, disgust=1, sadness=1, neutral=1, surprise=1),  # none that counts
}


@pytest.fixture(scope="module")
def published():
    """FER-2013's label, image and votes of each row; annotators agree with two thirds of the labels."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(COUNT):
        label = int(rng.integers(7))
        voted = label if number % 3 else (label + 1) % 7
        counts = SPECIAL.get(number, votes(**{COLUMNS[voted]: 8, "unknown": 1}))
        rows.append((label, rng.integers(0, 256, (48, 48), np.uint8), counts))
    return rows


def write(folder, published, *, by_name, change=lambda lines: lines):
    """A source; ``by_name`` leaves the rows that FER+ took out away from FER-2013's file."""
    folder.mkdir(exist_ok=True)
    kept = [i for i in range(COUNT) if not (by_name and i in TAKEN_OUT)]
    with (folder / "fer2013.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for i in kept:
            writer.writerow([published[i][0], " ".join(map(str, published[i][1].ravel())), USAGES[i]])
    lines, named = [], 0
    for i in range(COUNT):
        name = "" if i in TAKEN_OUT else f"fer{named if by_name else i:07d}.png"
        named += i not in TAKEN_OUT
        lines.append([USAGES[i], name, *published[i][2]])
    with (folder / "fer2013new.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Usage", "Image name", *COLUMNS], *change(lines)])
    return folder


@pytest.mark.parametrize("by_name", [False, True])
def test_majority_of_votes_becomes_the_label(published, tmp_path, by_name):
    source = write(tmp_path / "source", published, by_name=by_name)
    builder = make_builder("ferplus", source=source, data_dir=tmp_path / "tfds")
    builder.prepare()
    assert builder.notes == [
        "Left out: 2 faces on which no majority of the votes falls; by majority contempt 1, unknown 1, no face 1."
    ]
    for split, usage in (("train", "Training"), ("validation", "PublicTest"), ("test", "PrivateTest")):
        examples = load("ferplus", split, image_size=48, data_dir=tmp_path / "tfds")
        assert examples.names == EMOTIONS
        found = {
            image.tobytes(): EMOTIONS[label] for image, label in zip(examples.images, examples.labels, strict=True)
        }
        expected = {}
        for i, (label, image, _) in enumerate(published):
            if USAGES[i] == usage and i not in (*TAKEN_OUT, 5, 7, 8, 9, 10):
                expected[image.tobytes()] = "happy" if i == 6 else EMOTIONS[label if i % 3 else (label + 1) % 7]
        assert found == expected


def test_a_damaged_line_is_named_or_skipped_and_counted(published, tmp_path):
    def damage(lines):
        lines[12][4] = "x"
        lines[50] = lines[50][:5]
        return lines

    source = write(tmp_path / "source", published, by_name=False, change=damage)
    with pytest.raises(FaceflaxError, match=r"source: line 14 of '.*fer2013new\.csv' needs a Usage .*skip_corrupt"):
        make_builder("ferplus", source=source, data_dir=tmp_path / "tfds").prepare()
    builder = make_builder("ferplus", source=source, data_dir=tmp_path / "tfds", skip_corrupt=True)
    builder.prepare()
    assert builder.skipped == {"train": ["line 14 of fer2013new.csv"], "test": ["line 52 of fer2013new.csv"]}
    assert "12" not in load("ferplus", "train", image_size=48, data_dir=tmp_path / "tfds").ids


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no votes", "has no fer2013new.csv. PATH is a folder with FER+'s fer2013new.csv"),
        ("no images", "none of fer2013.csv, icml_face_data.csv"),
        ("other columns", "lacks FER+'s columns Image name, NF"),
        ("other images", "% of FER-2013's labels, so they are not of the same rows"),
    ],
)
def test_a_wrong_source_is_refused(published, tmp_path, fault, message):
    source = write(
        tmp_path / "source",
        published,
        by_name=False,
        change=(lambda lines: [[*a[:2], *b[2:]] for a, b in zip(lines, lines[7:] + lines[:7], strict=True)])
        if fault == "other images"
        else lambda lines: lines,
    )
    if fault == "no votes":
        (source / "fer2013new.csv").unlink()
    elif fault == "no images":
        (source / "fer2013.csv").unlink()
    elif fault == "other columns":
        (source / "fer2013new.csv").write_text("a,b\n1,2\n")
    done = subprocess.run(
        [sys.executable, "scripts/prepare_data.py", "ferplus", "--source", source, "--data-dir", tmp_path / "tfds"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --source")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_real_votes_give_the_paper_s_counts(tmp_path):
    """Within a hundredth of what the literature reports for majority voting (eight classes): 25,045, 3,191, 3,137."""
    if not (SHARED / "ferplus.csv").exists():
        pytest.skip("../shared/data/ferplus.csv is not here")
    from faceflax.data.ferplus import read_votes

    lines = read_votes("--source", SHARED / "ferplus.csv")
    for usage, count in (("Training", 25045), ("PublicTest", 3191), ("PrivateTest", 3137)):
        named = [line for line in lines if line.number is not None and line.usage == usage]
        assert abs(sum(line.majority in COLUMNS[:8] for line in named) / count - 1) < 0.01
