import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from faceflax.data import load
from faceflax.data.builder import read_grey
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


def test_every_file_is_used_or_counted_with_its_reason(tmp_path):
    source = tmp_path / "mine"
    write_images(source / "train" / "happy", 3)
    write_images(source / "train" / "happy" / "2024" / "may", 2)
    write_images(source / "train" / "sad", 2, ".jpg")
    write_images(source / "valid" / "happy", 2)
    write_images(source / "valid" / "sad", 1)
    write_images(source / "testing" / "happy", 1)
    write_images(source / "testing" / "angry", 1)
    (source / "train" / "sad" / "0.jpg").rename(source / "train" / "sad" / "0.jfif")
    (source / "train" / "sad" / "1.jpg").rename(source / "train" / "sad" / "1.xyz")
    (source / "train" / "sad" / "._0.jpg").write_bytes(b"x")
    (source / "train" / "loose.png").write_bytes(b"x")
    (source / "readme.txt").write_text("x")
    (source / "train" / "happy" / "again").symlink_to(source / "train" / "happy")
    notes: list[str] = []
    files = find_images(source, notes)
    assert {split: len(images) for split, images in files.items()} == {"train": 6, "validation": 3, "test": 2}
    assert sorted(notes) == [
        "no image of the test split is of sad.",
        "no image of the train split is of angry.",
        "no image of the validation split is of angry.",
        "not used, 1 hidden: train/sad/._0.jpg",
        "not used, 1 whose name does not end as an image's (.xyz): train/sad/1.xyz",
        "not used, 2 in no folder of a class: readme.txt, train/loose.png",
    ]


def test_gif_is_read(tmp_path):
    folder = write_images(tmp_path / "mine" / "train" / "a", 1)
    Image.fromarray(np.full((40, 40), 99, np.uint8)).save(folder / "1.gif")
    write_images(tmp_path / "mine" / "valid" / "a", 1)
    make_builder("folder", source=tmp_path / "mine", data_dir=tmp_path / "tfds").prepare()
    assert len(load("folder", "train", image_size=32, data_dir=tmp_path / "tfds").labels) == 2


def test_one_class_is_said(tmp_path):
    write_images(tmp_path / "train" / "a", 2)
    notes: list[str] = []
    find_images(tmp_path, notes)
    assert notes == ["all images are of one class, a: there is nothing to tell apart."]


@pytest.mark.parametrize("names", [("Happy", "happy"), ("caf\u00e9", "cafe\u0301"), ("x", "x ")])
def test_classes_that_look_alike_are_refused(names, tmp_path):
    for split, name in zip(("train", "test"), names, strict=True):
        write_images(tmp_path / split / name, 1)
    with pytest.raises(FaceflaxError, match=r"look alike; merge or rename them"):
        find_images(tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    write_images(tmp_path / "mine" / "train" / "a", 2)
    write_images(tmp_path / "mine" / "valid" / "a", 1)
    folder = os.fsencode(tmp_path / "mine" / "train" / "a")
    os.rename(folder + b"/0.png", folder + b"/\xff.png")
    make_builder("folder", source=tmp_path / "mine", data_dir=tmp_path / "tfds").prepare()
    ids = load("folder", "train", image_size=32, data_dir=tmp_path / "tfds").ids
    assert sorted(ids) == ["train/a/1.png", "train/a/\\xff.png"]
    os.rename(folder, folder[:-1] + b"\xfe")
    with pytest.raises(FaceflaxError, match=r"class folder \\xfe in .* is not UTF-8; rename it"):
        find_images(tmp_path / "mine")


def test_a_jpeg_that_is_cut_anywhere_is_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    whole = cv2.imencode(".jpg", image)[1].tobytes()
    for share in range(5, 100, 10):
        (tmp_path / "x.jpg").write_bytes(whole[: len(whole) * share // 100])
        with pytest.raises(FaceflaxError, match="cannot read the image"):
            read_grey(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes(whole + b"a few bytes behind it")
    assert read_grey(tmp_path / "x.jpg").shape == (60, 60)


def test_a_small_file_of_many_pixels_is_refused(tmp_path):
    header = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 22_000, 22_000, 8, 0, 0, 0, 0))
    rows = zlib.compress(bytes(22_001)) * 1000
    (tmp_path / "x.png").write_bytes(header + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b""))
    with pytest.raises(FaceflaxError, match="cannot read the image"):
        read_grey(tmp_path / "x.png")


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


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
