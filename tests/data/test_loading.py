import tempfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax import data
from faceflax.data import builder as builders
from faceflax.data import synthetic_builder
from faceflax.data.loading import count_classes, make_builder, prepare
from faceflax.data.preparation import Row
from faceflax.data.synthetic import render_faces
from faceflax.errors import FaceflaxError


@pytest.fixture
def few_faces(monkeypatch):
    monkeypatch.setattr(synthetic_builder, "COUNTS", {"train": 28, "validation": 14, "test": 14})


def test_unknown_names_list_the_valid_ones(tmp_path, few_faces):
    with pytest.raises(
        FaceflaxError,
        match=r"^dataset: unknown 'fer'; choose one of: fer2013, ferplus, fairface, imdb, imdb_reference, wiki, faces",
    ):
        data.load("fer", "train", image_size=64, data_dir=tmp_path)
    with pytest.raises(
        FaceflaxError, match=r"^dataset: unknown 'synthetic/age'; .*synthetic/emotion, synthetic/gender$"
    ):
        data.load("synthetic/age", "train", image_size=64, data_dir=tmp_path)
    with pytest.raises(FaceflaxError, match=r"^split: unknown 'training'; choose one of: train, validation, test$"):
        data.load("synthetic", "training", image_size=64, data_dir=tmp_path)


@pytest.mark.parametrize("dataset", ["fer2013", "fairface", "imdb", "wiki", "folder"])
def test_a_dataset_that_is_not_prepared_says_where_to_get_it_and_what_to_run(dataset, tmp_path, monkeypatch):
    with pytest.raises(FaceflaxError) as caught:
        data.load(dataset, "train", image_size=64, data_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"dataset: '{dataset}' is not prepared in '{tmp_path}'; ")
    assert message.endswith(f"run: faceflax prepare-data {dataset} --source PATH --data-dir {tmp_path}")
    assert ("https://" in message) == (dataset != "folder")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FaceflaxError, match=r"--source PATH$"):  # the default place need not be named
        data.load(dataset, "train", image_size=64)


def test_synthetic_is_drawn_on_first_use_and_has_both_labels(tmp_path, few_faces):
    drawn = render_faces(28, seed=0)
    by_image = {image.tobytes(): i for i, image in enumerate(drawn.images)}
    emotion = data.load("synthetic", "train", image_size=64, data_dir=tmp_path)
    gender = data.load("synthetic/gender", "train", image_size=64, data_dir=tmp_path)
    assert emotion.names == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert gender.names == ("woman", "man")
    assert (emotion.label, gender.label) == ("emotion", "gender")
    assert list(emotion.attributes) == ["gender"]
    np.testing.assert_array_equal(emotion.attributes["gender"][1], gender.labels)
    assert emotion.attributes["gender"][0] == gender.names
    for examples, labels in ((emotion, drawn.emotions), (gender, drawn.genders)):
        rows = [by_image[image.tobytes()] for image in examples.images]
        assert sorted(rows) == list(range(28))
        np.testing.assert_array_equal(examples.labels, labels[rows])
        assert examples.ids == tuple(map(str, rows))
    validation = data.load("synthetic", "validation", image_size=64, data_dir=tmp_path)
    assert not {image.tobytes() for image in validation.images} & set(by_image)

    for example in make_builder("synthetic", data_dir=tmp_path).as_data_source("train"):
        mask = drawn.expression_masks[int(example["id"])]
        np.testing.assert_array_equal(example["expression_mask"][:, :, 0], mask * 255)


def test_load_resizes_and_keeps_order_and_types(tmp_path, few_faces):
    full = data.load("synthetic", "test", image_size=64, data_dir=tmp_path)
    half = data.load("synthetic", "test", image_size=32, data_dir=tmp_path)
    assert half.images.shape == (14, 32, 32, 1)
    assert half.images.dtype == np.uint8
    assert half.labels.dtype == np.int32
    np.testing.assert_array_equal(half.labels, full.labels)
    means = full.images.reshape(14, 32, 2, 32, 2, 1).astype(float).mean(axis=(2, 4))  # what area averaging is
    assert np.abs(half.images - means).max() <= 0.5
    names, counts = count_classes(make_builder("synthetic", data_dir=tmp_path))
    assert names == full.names
    assert {split: count.tolist() for split, count in counts.items()} == {
        "train": [4] * 7,
        "validation": [2] * 7,
        "test": [2] * 7,
    }


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError("disk full")])
def test_a_preparation_that_fails_keeps_the_older_dataset(failure, tmp_path, few_faces, monkeypatch):
    builder = make_builder("synthetic", data_dir=tmp_path)
    builder.prepare()
    before = contents(tmp_path)

    def interrupted(count, seed):
        if seed == 2:
            raise failure
        return render_faces(count, seed)

    monkeypatch.setattr(synthetic_builder, "render_faces", interrupted)
    with pytest.raises(KeyboardInterrupt if failure is KeyboardInterrupt else FaceflaxError):
        builder.prepare()
    assert contents(tmp_path) == before
    monkeypatch.undo()
    assert data.load("synthetic", "test", image_size=64, data_dir=tmp_path).images.shape[0] == 14


def test_a_second_preparation_replaces_the_first(tmp_path, monkeypatch):
    for count in (14, 28):
        monkeypatch.setattr(synthetic_builder, "COUNTS", {"train": count, "validation": 14, "test": 14})
        make_builder("synthetic", data_dir=tmp_path).prepare()
        assert data.load("synthetic", "train", image_size=64, data_dir=tmp_path).images.shape[0] == count
    assert [entry.name for entry in tmp_path.iterdir()] == ["synthetic"]


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "gone"])
def test_damaged_prepared_files_are_said_to_be_damaged(damage, tmp_path, few_faces):
    make_builder("synthetic", data_dir=tmp_path).prepare()
    (file,) = tmp_path.rglob("synthetic-test.array_record*")
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "overwritten":
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes(2000) + content[middle + 2000 :])
    else:
        file.unlink()
    with pytest.raises(
        FaceflaxError,
        match=r"^dataset: 'synthetic' in '.*' is damaged: synthetic-test.array_record.* --data-dir .* --overwrite$",
    ):
        data.load("synthetic", "test", image_size=64, data_dir=tmp_path)


@pytest.fixture
def named(tmp_path, few_faces):
    """A prepared dataset whose class names are in a file."""
    for split in ("train", "validation"):
        for name in ("left", "right"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / "0.png"), np.zeros((40, 40), np.uint8))
    make_builder("folder", source=tmp_path / "images", data_dir=tmp_path / "tfds").prepare()
    return tmp_path / "tfds"


@pytest.mark.parametrize("name", ["label.labels.txt", "dataset_info.json", "features.json", "digests.json"])
@pytest.mark.parametrize("damage", ["emptied", "changed", "flipped", "gone"])
def test_other_files_of_a_prepared_dataset_are_verified(name, damage, named):
    (file,) = named.rglob(name)
    content = file.read_bytes()
    middle = len(content) // 2
    damaged = {
        "emptied": b"",
        "changed": content.replace(b"left", b"lift").replace(b"a", b"b"),
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }
    if damage == "gone":
        file.unlink()
        if name in ("digests.json", "dataset_info.json"):
            return  # the first is a dataset of before there were digests; TFDS takes the second for not prepared
    else:
        file.write_bytes(damaged[damage])
    with pytest.raises(
        FaceflaxError, match=r"^dataset: 'folder' in '.*' is damaged: .*; run: faceflax prepare-data .* --overwrite$"
    ):
        data.load("folder", "train", image_size=32, data_dir=named)
    prepare("folder", source=named.parent / "images", data_dir=named)
    assert data.load("folder", "train", image_size=32, data_dir=named).names == ("left", "right")


def test_a_dataset_without_digests_is_read_with_a_line(named, caplog):
    (file,) = named.rglob("digests.json")
    file.unlink()
    assert data.load("folder", "train", image_size=32, data_dir=named).names == ("left", "right")
    assert "prepared by faceflax 0.1, without digests" in caplog.text


def test_preparing_again_shows_the_new_classes(named):
    (named.parent / "images" / "train" / "left").rename(named.parent / "images" / "train" / "middle")
    builder = make_builder("folder", source=named.parent / "images", data_dir=named)
    builder.prepare()
    names, counts = count_classes(builder)
    assert names == ("left", "middle", "right")
    assert counts["train"].tolist() == [0, 1, 1]


@pytest.mark.parametrize("moved", [True, False])
def test_a_replacement_that_was_killed_loses_nothing(named, moved):
    (file,) = named.rglob("digests.json")
    folder = file.parent
    (named / "incomplete.abcd" / "folder").mkdir(parents=True)
    older = folder.with_name(folder.name + ".older")
    if moved:  # killed between the two renames
        folder.rename(older)
    else:  # or after the second
        older.mkdir()
    assert data.load("folder", "train", image_size=32, data_dir=named).names == ("left", "right")
    assert [entry.name for entry in named.iterdir()] == ["folder"]
    assert not older.exists()


def test_a_running_preparation_is_left_alone(named):
    with builders._staging(named) as staging:
        builders.recover(named)
        assert staging.is_dir()


@pytest.mark.parametrize(
    ("remedy", "shown"),
    [("", ""), ("cut it out", "cut it out, or ")],
)
def test_a_damaged_row_says_what_to_do_with_it_and_what_with_all(remedy, shown, tmp_path):
    def row():
        raise FaceflaxError("source", "a.png", "is upside down", remedy)

    builder = make_builder("synthetic", data_dir=tmp_path)
    with pytest.raises(FaceflaxError) as caught:
        list(builder._generate_examples("train", [Row("a", partial(row))]))
    assert str(caught.value) == f"source: 'a.png' is upside down; {shown}leave damaged rows out with skip_corrupt"


def test_builders_leave_no_temporary_folders(named, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    make_builder("folder/other", data_dir=named)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FaceflaxError, match=r"^data_dir: cannot write into '.*file"):
        make_builder("synthetic", data_dir=tmp_path / "file").prepare()


def test_random_split_is_even_and_the_same_everywhere():
    splits = [builders.random_split(f"person {i}") for i in range(10_000)]
    assert abs(splits.count("validation") - 1000) < 150  # five standard deviations
    assert abs(splits.count("test") - 1000) < 150
    # The SHA-256 of "abc" begins with ba7816bf (FIPS 180), which is 0.72839 of the range.
    assert builders.random_split("abc", validation=0.7283, test=0) == "train"
    assert builders.random_split("abc", validation=0.7284, test=0) == "validation"
    assert builders.random_split("abc", validation=0.7, test=0.0284) == "test"


def test_read_grey_keeps_the_shape_of_what_it_shrinks(tmp_path):
    file = tmp_path / "wide.png"
    cv2.imwrite(str(file), np.full((100, 400, 4), 77, np.uint8))
    image = builders.read_grey(file)
    assert image.shape == (32, 128)
    assert np.abs(image.astype(int) - 77).max() <= 1
    with pytest.raises(FaceflaxError, match=r"cannot read the image '.*nothing\.png'"):
        builders.read_grey(Path(tmp_path, "nothing.png"))
