import csv
import io
import itertools
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax.data import load
from faceflax.data.loading import make_builder
from faceflax.errors import FaceflaxError

SHARED = Path(__file__).resolve().parents[2] / "../shared"
HEADER = ["file", "age", "gender", "race", "service_test"]
RACES = ["Black", "East Asian", "Indian", "Latino_Hispanic", "Middle Eastern", "Southeast Asian", "White"]
AGES = ["0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The published layout with 120 training and 20 validation photos: colour JPEGs of 224 pixels (the last of 96)."""
    folder = tmp_path_factory.mktemp("fairface")
    rng = np.random.default_rng(0)
    for split, count in (("train", 120), ("val", 20)):
        (folder / split).mkdir(parents=True)
        with (folder / f"fairface_label_{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            for i in range(1, count + 1):
                side = 96 if i == count else 224
                image = cv2.resize(rng.integers(0, 256, (7, 7, 3), np.uint8), (side, side))
                cv2.imwrite(str(folder / split / f"{i}.jpg"), image)
                gender = ["Female", "Male"][i % 2]
                writer.writerow([f"{split}/{i}.jpg", AGES[i % 9], gender, RACES[i % 7], i % 2 == 0])
    return folder


@pytest.fixture
def source(published, tmp_path):
    """A copy to damage."""
    return shutil.copytree(published, tmp_path / "fairface")


@pytest.fixture(scope="module")
def builder(published, tmp_path_factory):
    builder = make_builder("fairface", source=published, data_dir=tmp_path_factory.mktemp("tfds"))
    builder.prepare()
    return builder


def test_test_is_the_published_validation_set_and_nobody_is_in_two_splits(builder):
    ids = {
        split: {example["id"].decode() for example in builder.as_data_source(split)} for split in builder.info.splits
    }
    assert ids["test"] == {f"val/{i}.jpg" for i in range(1, 21)}
    assert ids["train"] | ids["validation"] == {f"train/{i}.jpg" for i in range(1, 121)}
    assert not ids["train"] & ids["validation"]
    assert 2 <= len(ids["validation"]) <= 25  # 12 expected, standard deviation 3.3


def test_gender_age_and_race_are_the_published_ones(builder):
    features = builder.info.features
    for split in builder.info.splits:
        for example in builder.as_data_source(split):
            i = int(example["id"].decode().split("/")[1].split(".")[0])
            assert features["gender"].int2str(example["gender"]) == ["woman", "man"][i % 2]
            assert features["age"].int2str(example["age"]) == AGES[i % 9]
            assert features["race"].int2str(example["race"]) == RACES[i % 7]


def test_photos_become_grey_and_at_most_128_pixels(builder, published):
    sizes = set()
    for example in builder.as_data_source("test"):
        file = published / example["id"].decode()
        image = example["image"][:, :, 0]
        sizes.add(image.shape)
        grey = cv2.imread(str(file), cv2.IMREAD_COLOR) @ np.array([0.114, 0.587, 0.299])  # blue, green, red
        expected = cv2.resize(grey, image.shape, interpolation=cv2.INTER_AREA)
        assert np.abs(image - expected).mean() < 1
    assert sizes == {(128, 128), (96, 96)}


def test_load_gives_perceived_gender_at_the_size_asked_for(builder):
    examples = load("fairface", "test", image_size=64, data_dir=builder.data_dir_root)
    assert examples.images.shape == (20, 64, 64, 1)
    assert examples.names == ("woman", "man")
    assert np.bincount(examples.labels).tolist() == [10, 10]
    assert (examples.label, examples.split, examples.skipped) == ("gender", "test", 0)
    groups = {name: [names[i] for i in members] for name, (names, members) in examples.attributes.items()}
    numbers = [int(identity.removeprefix("val/").removesuffix(".jpg")) for identity in examples.ids]
    assert groups == {"age": [AGES[i % 9] for i in numbers], "race": [RACES[i % 7] for i in numbers]}
    assert examples.labels.tolist() == [i % 2 for i in numbers]


def test_select_keeps_everything_of_the_examples_kept(builder):
    examples = load("fairface", "test", image_size=32, data_dir=builder.data_dir_root)
    keep = examples.labels == 1
    kept = examples.select(keep)
    np.testing.assert_array_equal(kept.images, examples.images[keep])
    assert kept.labels.tolist() == [1] * 10
    assert kept.ids == tuple(np.array(examples.ids)[keep])
    names, members = kept.attributes["race"]
    assert names == tuple(RACES)
    np.testing.assert_array_equal(members, examples.attributes["race"][1][keep])


def test_a_missing_photo_is_named_and_no_dataset_is_left(source, tmp_path):
    photo = source / "val" / "7.jpg"
    given = photo.read_bytes()
    photo.unlink()
    with pytest.raises(FaceflaxError, match=r"source: cannot read the image .*val/7\.jpg"):
        make_builder("fairface", source=source, data_dir=tmp_path / "tfds").prepare()
    assert [left.name for left in (tmp_path / "tfds").iterdir()] == ["unfinished.fairface"]  # what was read before it
    photo.write_bytes(given)
    make_builder("fairface", source=source, data_dir=tmp_path / "tfds").prepare()
    assert [left.name for left in (tmp_path / "tfds").iterdir()] == ["fairface"]


def test_skip_corrupt_counts_the_photos_and_rows_it_leaves_out(source, tmp_path):
    (source / "val" / "7.jpg").unlink()
    whole = (source / "val" / "8.jpg").read_bytes()
    (source / "val" / "8.jpg").write_bytes(whole[: len(whole) // 2])
    file = source / "fairface_label_train.csv"
    file.write_text(file.read_text().replace("train/1.jpg,3-9", "train/1.jpg,3 to 9") + ",,")
    builder = make_builder("fairface", source=source, data_dir=tmp_path / "tfds", skip_corrupt=True)
    builder.prepare()
    skipped = builder.skipped
    assert skipped.pop("test") == ["val/7.jpg", "val/8.jpg"]
    assert sorted(itertools.chain(*skipped.values())) == [f"line 122 of {str(file)!r}", "train/1.jpg"]
    examples = load("fairface", "test", image_size=48, data_dir=tmp_path / "tfds")
    assert (len(examples.labels), examples.skipped) == (18, 2)


@pytest.mark.parametrize("name", ["../secret.jpg", "/{folder}/secret.jpg", "val/link.jpg", "val/a\0b.jpg"])
def test_a_photo_outside_of_the_source_is_refused(name, source, tmp_path):
    shutil.copy(source / "val" / "1.jpg", tmp_path / "secret.jpg")
    (source / "val" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    file = source / "fairface_label_val.csv"
    file.write_text(file.read_text().replace("val/1.jpg", name.format(folder=tmp_path)))
    with pytest.raises(FaceflaxError, match=r"source: .* does not hold .*, which line 2 names"):
        make_builder("fairface", source=source, data_dir=tmp_path / "tfds").prepare()


def test_missing_labels_are_an_error_that_says_where_to_get_them(source, tmp_path):
    (source / "fairface_label_val.csv").unlink()
    with pytest.raises(FaceflaxError, match=r"fairface_label_val\.csv.*https://github.com/joojs/fairface"):
        make_builder("fairface", source=source, data_dir=tmp_path / "tfds").prepare()


def test_a_label_that_is_none_of_the_published_is_named(source, tmp_path):
    file = source / "fairface_label_train.csv"
    file.write_text(file.read_text().replace("train/1.jpg,3-9", "train/1.jpg,3 to 9"))
    with pytest.raises(FaceflaxError, match=r"line 2 of .*fairface_label_train\.csv"):
        make_builder("fairface", source=source, data_dir=tmp_path / "tfds").prepare()


def test_a_few_photos_of_the_real_dataset(tmp_path):
    if not (SHARED / "data/fairface.zip").exists():
        pytest.skip("needs the real photos in ../shared/data/fairface.zip")
    published = {}
    with zipfile.ZipFile(SHARED / "data/fairface.zip") as archive:
        for split, count in (("train", 60), ("val", 10)):
            name = f"fairface_label_{split}.csv"
            text = "".join(archive.read(name).decode().splitlines(keepends=True)[: count + 1])
            (tmp_path / name).write_text(text)
            for row in csv.DictReader(io.StringIO(text)):
                archive.extract(row["file"], tmp_path)
                published[row["file"]] = row
    builder = make_builder("fairface", source=tmp_path, data_dir=tmp_path / "tfds")
    builder.prepare()
    examples = [example for split in builder.info.splits for example in builder.as_data_source(split)]
    assert {example["id"].decode() for example in examples} == set(published)
    for example in examples:
        row = published[example["id"].decode()]
        assert example["gender"] == ["Female", "Male"].index(row["gender"])
        assert example["image"].shape == (96, 96, 1)
