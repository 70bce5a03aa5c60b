import cv2
import numpy as np
import pytest

from faceflax.data import load
from faceflax.data.folder import find_images
from faceflax.data.loading import make_builder
from faceflax.errors import FaceflaxError


def write_images(folder, count, suffix=".png", value=0):
    folder.mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}{suffix}"), np.full((40, 40, 3), value, np.uint8))
    return folder


def test_split_folders_are_kept_and_class_folders_are_the_labels(tmp_path):
    source = tmp_path / "mine"
    for split, count in (("train", 4), ("val", 2), ("Test", 3)):
        write_images(source / split / "smile", count, ".JPG", value=200)
        write_images(source / split / "frown", 1, value=50)
    (source / "train" / "smile" / "notes.txt").write_text("not an image")
    make_builder("folder/mine", source=source, data_dir=tmp_path / "tfds").prepare()
    for split, count in (("train", 4), ("validation", 2), ("test", 3)):
        examples = load("folder/mine", split, image_size=32, data_dir=tmp_path / "tfds")
        assert examples.names == ("frown", "smile")
        assert np.bincount(examples.labels).tolist() == [1, count]
        expected = np.where(examples.labels == 1, 200, 50)[:, None, None, None]
        assert np.abs(examples.images.astype(int) - expected).max() <= 2


def test_without_split_folders_images_are_split_once_and_for_all(tmp_path):
    for name in ("a", "b"):
        write_images(tmp_path / "here" / name, 150)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here" / "a").rename(tmp_path / "elsewhere" / "a")
    files = find_images(tmp_path / "elsewhere")
    again = {split: {file.name for _, file in images} for split, images in files.items()}
    (tmp_path / "elsewhere" / "a").rename(tmp_path / "here" / "a")

    files = find_images(tmp_path / "here")
    counts = {split: len(images) for split, images in files.items()}
    assert sum(counts.values()) == 300
    assert 210 <= counts["train"] <= 270  # 240 expected, standard deviation 6.9
    assert 14 <= counts["validation"] <= 46  # 30 expected, standard deviation 5.2
    assert len({file for images in files.values() for _, file in images}) == 300
    # Neither the place nor the other classes change where an image goes.
    assert {split: {file.name for name, file in files[split] if name == "a"} for split in files} == again


def test_without_a_validation_folder_a_tenth_of_train_is_held_out(tmp_path):
    write_images(tmp_path / "train" / "a", 200)
    write_images(tmp_path / "test" / "a", 5)
    files = find_images(tmp_path)
    assert len(files["test"]) == 5
    assert len(files["train"]) + len(files["validation"]) == 200
    assert 5 <= len(files["validation"]) <= 37  # 20 expected, standard deviation 4.2


def test_a_set_without_a_test_split_says_so_when_it_is_asked_for(tmp_path):
    write_images(tmp_path / "mine" / "train" / "a", 3)
    write_images(tmp_path / "mine" / "validation" / "a", 3)
    make_builder("folder", source=tmp_path / "mine", data_dir=tmp_path / "tfds").prepare()
    with pytest.raises(FaceflaxError, match=r"split: unknown 'test'; choose one of: train, validation$"):
        load("folder", "test", image_size=32, data_dir=tmp_path / "tfds")


def test_sets_of_different_names_live_side_by_side(tmp_path):
    for name, classes in (("one", "ab"), ("two", "xyz")):
        for letter in classes:
            write_images(tmp_path / name / "train" / letter, 2)
            write_images(tmp_path / name / "validation" / letter, 1)
        make_builder(f"folder/{name}", source=tmp_path / name, data_dir=tmp_path / "tfds").prepare()
    assert load("folder/one", "train", image_size=32, data_dir=tmp_path / "tfds").names == ("a", "b")
    assert load("folder/two", "train", image_size=32, data_dir=tmp_path / "tfds").names == ("x", "y", "z")
    with pytest.raises(FaceflaxError, match=r"faceflax prepare-data folder --source PATH --name three --data-dir"):
        load("folder/three", "train", image_size=32, data_dir=tmp_path / "tfds")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_image_is_named(damage, tmp_path):
    file = write_images(tmp_path / "mine" / "train" / "a", 1, ".jpg") / "0.jpg"
    file.write_bytes({"truncated": file.read_bytes()[:300], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(FaceflaxError, match=r"source: cannot read the image .*mine/train/a/0\.jpg"):
        make_builder("folder", source=tmp_path / "mine", data_dir=tmp_path / "tfds").prepare()


def test_an_empty_folder_a_file_and_a_mixture_of_layouts_are_errors(tmp_path):
    (tmp_path / "empty" / "happy").mkdir(parents=True)
    with pytest.raises(FaceflaxError, match=r"no images in .*empty'; put CLASS/\*\.jpg into it"):
        find_images(tmp_path / "empty")
    (tmp_path / "file.zip").write_bytes(b"")
    with pytest.raises(FaceflaxError, match=r"file\.zip' is not a folder"):
        find_images(tmp_path / "file.zip")
    write_images(tmp_path / "mixed" / "happy", 1)
    write_images(tmp_path / "mixed" / "test" / "happy", 1)
    with pytest.raises(FaceflaxError, match=r"folders of splits \(test\) and of images \(happy\) side by side"):
        find_images(tmp_path / "mixed")


@pytest.mark.parametrize("name", ["../x", "1.0.0", "a b", "."])
def test_a_name_that_cannot_be_a_folder_is_an_error(name):
    with pytest.raises(FaceflaxError, match="start it with a letter"):
        make_builder(f"folder/{name}")
