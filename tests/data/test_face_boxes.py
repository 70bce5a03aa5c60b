"""Datasets of boxes: small copies of both published layouts are read back as they were written."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax.data import load, load_scenes
from faceflax.data.loading import make_builder
from faceflax.errors import FaceflaxError

SHARED = Path(__file__).resolve().parents[2] / "../shared"
HEADER = "split,file,x,y,width,height,ignore,lx1,ly1,lx2,ly2,lx3,ly3,lx4,ly4,lx5,ly5"
POINTS = "30,40,70,40,50,60,35,80,65,80"


def picture(shape, seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Forty images in five groups."""
    folder = tmp_path_factory.mktemp("faces")
    rows = [HEADER]
    with zipfile.ZipFile(folder / "faces.zip", "w") as archive:
        for number, group in enumerate(["wider", "mask", "portrait", "closeup", "noface"] * 8):
            name = f"{group}/{number:05}.webp"
            image = picture((120, 160), number)
            archive.writestr(name, cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes())
            split = "validation" if number >= 30 and group != "mask" else "train"
            if group == "noface":
                rows.append(f"{split},{name},,,,,,,,,,,,,,,")
            elif group in ("wider", "mask"):
                rows.append(f"{split},{name},10,20,30,40,0,,,,,,,,,,")
                rows.append(f"{split},{name},60,20,10,12,1,,,,,,,,,,")
            else:
                rows.append(f"{split},{name},20,30,60,60,0,{POINTS}")
        archive.writestr("boxes.csv", "\n".join(rows) + "\n")
    return folder / "faces.zip"


@pytest.fixture(scope="module")
def prepared(archive, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    make_builder("faces", source=archive, data_dir=data_dir).prepare()
    return data_dir


def test_every_image_is_in_one_split_with_its_boxes(prepared):
    splits = {split: load_scenes("faces", split, data_dir=prepared) for split in ("train", "validation")}
    counts = {split: {group: len(scenes) for group, scenes in groups.items()} for split, groups in splits.items()}
    assert {split: {g: n for g, n in groups.items() if g != "mask"} for split, groups in counts.items()} == {
        "train": {"wider": 6, "portrait": 6, "closeup": 6, "noface": 6},
        "validation": {"wider": 2, "portrait": 2, "closeup": 2, "noface": 2},
    }
    assert sum(groups.get("mask", 0) for groups in counts.values()) == 8
    for scene in splits["train"]["wider"]:
        np.testing.assert_array_equal(scene.boxes, [[10, 20, 30, 40], [60, 20, 10, 12]])
        assert scene.ignored.tolist() == [False, True]
        assert np.isnan(scene.landmarks).all()
    for scene in splits["train"]["portrait"]:  # framed from forehead to chin
        np.testing.assert_allclose(scene.boxes, [[17.6, 12.6, 66.0, 86.4]], atol=1e-4)
        np.testing.assert_array_equal(scene.landmarks[0], np.reshape([float(p) for p in POINTS.split(",")], (5, 2)))
    assert all(len(scene.boxes) == 0 for scene in splits["train"]["noface"])
    complete = {group: {scene.complete for scene in scenes} for group, scenes in splits["train"].items()}
    assert {group for group, values in complete.items() if values == {False}} == {"portrait", "closeup"}


def test_pixels_and_colours_are_kept(prepared, archive):
    scenes = load_scenes("faces", "validation", data_dir=prepared)["closeup"]
    originals = np.stack([picture((120, 160), n) for n in (33, 38)]).astype(float)
    for scene in scenes:
        off = np.abs(originals - scene.image).mean((1, 2, 3))
        assert off.min() < 3 < 20 < off.max()  # as near as JPEG keeps it


def test_the_folder_it_unpacks_to_is_a_source_too(archive, tmp_path):
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "unpacked")
    builder = make_builder("faces", source=tmp_path / "unpacked", data_dir=tmp_path / "tfds")
    builder.prepare()
    assert sum(info.num_examples for info in builder.info.splits.values()) == 40


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train,wider/00000.webp,a,20,30,40,0,,,,,,,,,,", r"line 2 of boxes.csv in .* is not a box"),
        ("test,wider/00000.webp,1,20,30,40,0,,,,,,,,,,", r"line 2 of boxes.csv in .* has file .* and split 'test'"),
        ("train,wider/99999.webp,1,20,30,40,0,,,,,,,,,,", r"cannot read '.*wider/99999\.webp' .*; unpack it again"),
    ],
)
def test_a_damaged_archive_says_where(archive, tmp_path, line, message):
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "faces")
    (tmp_path / "faces" / "boxes.csv").write_text(f"{HEADER}\n{line}\n")
    with pytest.raises(FaceflaxError, match=message):
        make_builder("faces", source=tmp_path / "faces", data_dir=tmp_path / "tfds").prepare()


@pytest.fixture(scope="module")
def wider(tmp_path_factory):
    """WIDER FACE's folders with 30 training images, the last without a face, and 3 validation images."""
    folder = tmp_path_factory.mktemp("wider")
    for part, count in (("train", 30), ("val", 3)):
        lines = []
        for number in range(count):
            name = f"0--Parade/0_Parade_{number}.jpg"
            file = folder / f"WIDER_{part}" / "images" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), picture((400, 1280), number))
            if number == count - 1:
                lines += [name, "0", "0 0 0 0 0 0 0 0 0 0"]
            else:
                lines += [name, "2", "100 200 40 60 0 0 0 0 0 0", "300 100 20 20 0 0 0 1 0 0"]
        table = folder / "wider_face_split" / f"wider_face_{part}_bbx_gt.txt"
        table.parent.mkdir(exist_ok=True)
        table.write_text("\n".join(lines) + "\n")
    return folder


def test_wider_as_it_is_published(wider, tmp_path):
    builder = make_builder("wider", source=wider, data_dir=tmp_path)
    builder.prepare()
    ids = {split: {e["id"].decode() for e in builder.as_data_source(split)} for split in builder.info.splits}
    assert len(ids["test"]) == 3
    assert all(name.startswith("val/") for name in ids["test"])
    assert len(ids["train"] | ids["validation"]) == 30
    assert not ids["train"] & ids["validation"]
    scenes = load_scenes("wider", "test", data_dir=tmp_path)
    assert {name: len(group) for name, group in scenes.items()} == {"wider": 2, "noface": 1}
    for scene in scenes["wider"]:  # stored at half the size
        assert scene.image.shape == (200, 640, 3)
        np.testing.assert_array_equal(scene.boxes, [[50, 100, 20, 30], [150, 50, 10, 10]])
        assert scene.ignored.tolist() == [False, True]


def test_a_table_that_ends_too_early_is_named(wider, tmp_path):
    copy = tmp_path / "wider"
    (copy / "wider_face_split").mkdir(parents=True)
    (copy / "wider_face_split" / "wider_face_train_bbx_gt.txt").write_text("a.jpg\n2\n1 2 3 4 0 0 0 0 0 0\n")
    with pytest.raises(FaceflaxError, match=r"wider_face_train_bbx_gt.txt.*ends too early"):
        make_builder("wider", source=copy, data_dir=tmp_path / "tfds").prepare()


def test_boxes_are_no_labels_and_labels_are_no_boxes(prepared):
    with pytest.raises(FaceflaxError, match="photographs with boxes"):
        load("faces", "train", image_size=32, data_dir=prepared)
    with pytest.raises(FaceflaxError, match="has no boxes of faces"):
        load_scenes("synthetic", "train", data_dir=prepared)


@pytest.mark.slow
def test_the_real_archive_has_the_counts_it_is_described_with(tmp_path):
    source = SHARED / "data" / "faces.zip"
    if not source.exists():
        pytest.skip("needs ../shared/data/faces.zip")
    builder = make_builder("faces", source=source, data_dir=tmp_path)
    builder.prepare()
    assert sum(info.num_examples for info in builder.info.splits.values()) == 12_876
