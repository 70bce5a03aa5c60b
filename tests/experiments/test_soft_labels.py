"""Soft labels from FER+ votes in both row orders, and from teachers, against plain formulas."""

import csv

import numpy as np
import pytest

from experiments.tools.soft_labels import Options, from_votes, main
from faceflax import EMOTIONS, FaceflaxError, data, pretrained
from faceflax.data.fer2013 import SIZE
from faceflax.data.ferplus import COLUMNS as VOTED
from faceflax.data.loading import make_builder
from faceflax.preprocessing import normalize

COLUMNS = ("Usage", "Image name", *VOTED)
COUNT = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A prepared ``fer2013`` of 40 training rows and one of each other split."""
    root = tmp_path_factory.mktemp("fer")
    generator = np.random.default_rng(0)
    lines = ["emotion,pixels,Usage"]
    for number in range(COUNT + 2):
        usage = ("Training", "PublicTest", "PrivateTest")[max(0, number - COUNT + 1)]
        pixels = " ".join(map(str, generator.integers(0, 256, SIZE * SIZE)))
        lines.append(f"{generator.integers(7)},{pixels},{usage}")
    (root / "fer2013.csv").write_text("\n".join(lines) + "\n")
    make_builder("fer2013", source=root / "fer2013.csv", data_dir=root / "tfds").prepare()
    return root


@pytest.fixture(scope="module")
def examples(root):
    return data.load("fer2013", "train", image_size=SIZE, data_dir=root / "tfds")


def write_votes(file, examples, *, gap):
    """Votes of 8 for each row's label and 2 for neutral; ``gap`` puts a nameless line in front that no row has."""
    labels = dict(zip(map(int, examples.ids), examples.labels, strict=True))
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS, restval=0)
        writer.writeheader()
        if gap:
            writer.writerow({"Usage": "Training", "Image name": ""})
        for number in range(COUNT):
            row = {"Usage": "Training", "Image name": f"fer{number:07d}.png"}
            row[VOTED[labels[number]]] = 8
            row["neutral"] = row.get("neutral", 0) + 2
            row["fear"] = row.get("fear", 0) or 1  # a single vote is an outlier
            writer.writerow(row)
    return file


@pytest.mark.parametrize("gap", [False, True])
def test_votes_become_shares_in_the_order_of_the_split(examples, tmp_path, gap):
    soft = from_votes(write_votes(tmp_path / "votes.csv", examples, gap=gap), examples)
    hard = np.eye(7)[examples.labels]
    np.testing.assert_allclose(soft, 0.8 * hard + 0.2 * np.eye(7)[EMOTIONS.index("neutral")])


def test_an_image_without_votes_keeps_its_label(examples, tmp_path):
    file = write_votes(tmp_path / "votes.csv", examples, gap=False)
    lines = file.read_text().splitlines()
    lines[1] = "Training,fer0000000.png," + ",".join("0" * 10)
    file.write_text("\n".join(lines))
    first = examples.ids.index("0")
    np.testing.assert_array_equal(from_votes(file, examples)[first], np.eye(7)[examples.labels[first]])


def test_votes_of_other_images_are_refused(examples, tmp_path):
    file = write_votes(tmp_path / "votes.csv", examples, gap=False)
    head, *lines = file.read_text().splitlines()
    cells = [line.split(",") for line in lines]
    names = [row[1] for row in cells]
    rolled = [[row[0], name, *row[2:]] for name, row in zip(names, cells[7:] + cells[:7], strict=True)]
    file.write_text("\n".join([head, *map(",".join, rolled)]))
    with pytest.raises(FaceflaxError, match=r"ferplus: the votes of .* agree with \d+% of FER-2013"):
        from_votes(file, examples)
    file.write_text("a,b\n1,2\n")
    with pytest.raises(FaceflaxError, match=r"ferplus: .* lacks FER\+'s columns"):
        from_votes(file, examples)


def test_teachers_probabilities_are_softened_and_averaged(root, examples, tmp_path):
    output = tmp_path / "taught.npy"
    teachers = ("mini_xception-fer2013", "mini_xception-fer2013")
    main(Options(output=output, data_dir=root / "tfds", teachers=teachers, temperature=3.0))
    model, variables = pretrained.load(teachers[0])
    info = pretrained.weights_info(teachers[0])
    images = normalize(data.load("fer2013", "train", image_size=info.image_size, data_dir=root / "tfds").images)
    logits = sum(np.asarray(model.apply(variables, x)[0], np.float64) for x in (images, images[:, :, ::-1])) / 2
    powers = np.exp(logits / (3 * info.temperature))
    soft = np.load(output)
    assert soft.dtype == np.float32
    np.testing.assert_allclose(soft, powers / powers.sum(1, keepdims=True), atol=1e-4)


def test_votes_and_teachers_are_mixed_by_the_share_of_the_votes(root, examples, tmp_path):
    votes = write_votes(tmp_path / "votes.csv", examples, gap=False)
    teachers, common = ("mini_xception-fer2013",), {"data_dir": root / "tfds"}
    main(Options(output=tmp_path / "both.npy", ferplus=votes, teachers=teachers, votes_weight=0.25, **common))
    main(Options(output=tmp_path / "taught.npy", teachers=teachers, **common))
    expected = 0.75 * np.load(tmp_path / "taught.npy") + 0.25 * from_votes(votes, examples)
    np.testing.assert_allclose(np.load(tmp_path / "both.npy"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: --teachers: neither ferplus nor teachers is given; give one of the two, or both"),
        (["--teachers", "mini_xception-fairface"], "error: --teachers: 'mini_xception-fairface' has the classes woman"),
        (["--teachers", "none"], "error: --teachers: unknown 'none'"),
        (["--teachers", "x", "--votes-weight", "2"], "error: --votes-weight: 2.0 is not usable"),
        (["--teachers", "x", "--temperature", "0"], "error: --temperature: 0.0 is not usable"),
    ],
)
def test_the_command_names_what_is_wrong(root, tmp_path, arguments, message, refused):
    given = ["--output", tmp_path / "soft.npy", *arguments, "--data-dir", root / "tfds"]
    said = refused("experiments.tools.soft_labels", *given)
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "soft.npy").exists()
