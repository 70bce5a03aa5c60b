import csv
import io
import tarfile
import zipfile

import cv2
import numpy as np
import pytest

from faceflax.data import load
from faceflax.data.fer2013 import read_rows
from faceflax.data.loading import make_builder
from faceflax.errors import FaceflaxError
from faceflax.labels import EMOTIONS

USAGES = ["Training"] * 8 + ["PublicTest"] * 3 + ["PrivateTest"] * 4


@pytest.fixture(scope="module")
def rows():
    """(emotion, 48x48 pixels, Usage): every emotion twice or more."""
    rng = np.random.default_rng(0)
    return [(i % 7, rng.integers(0, 256, (48, 48), np.uint8), usage) for i, usage in enumerate(USAGES)]


def pixels(image):
    return " ".join(map(str, image.ravel()))


def fer2013_csv(rows):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["emotion", "pixels", "Usage"])
    writer.writerows((emotion, pixels(image), usage) for emotion, image, usage in rows)
    return text.getvalue()


def icml_csv(rows):
    """Kaggle's other file: another order of columns, and a space before two of their names."""
    return "emotion, Usage, pixels\n" + "".join(f"{e},{usage},{pixels(image)}\n" for e, image, usage in rows)


def write_source(form, rows, folder):
    if form in ("csv", "csv with a mark", "folder with csv"):
        file = folder / "fer2013.csv"
        file.write_text(fer2013_csv(rows), encoding="utf-8-sig" if form == "csv with a mark" else "utf-8")
        return folder if form.startswith("folder") else file
    if form == "icml":
        file = folder / "icml_face_data.csv"
        file.write_text(icml_csv(rows))
        return file
    if form in ("tar.gz", "folder with tar.gz"):
        data = fer2013_csv(rows).encode()
        with tarfile.open(folder / "fer2013.tar.gz", "w:gz") as archive:
            for name, content in (("fer2013/README", b"read me"), ("fer2013/fer2013.csv", data)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return folder if form.startswith("folder") else folder / "fer2013.tar.gz"
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("fer2013/fer2013.csv", fer2013_csv(rows))
    return folder / "archive.zip"


def as_set(images, labels):
    return {(int(label), image.tobytes()) for image, label in zip(images, labels, strict=True)}


@pytest.mark.parametrize(
    "form", ["csv", "csv with a mark", "folder with csv", "icml", "tar.gz", "folder with tar.gz", "zip"]
)
def test_every_form_gives_the_published_pixels_labels_and_splits(form, rows, tmp_path):
    source = write_source(form, rows, tmp_path)
    make_builder("fer2013", source=source, data_dir=tmp_path / "tfds").prepare()
    for split, usage in (("train", "Training"), ("validation", "PublicTest"), ("test", "PrivateTest")):
        examples = load("fer2013", split, image_size=48, data_dir=tmp_path / "tfds")
        assert examples.names == EMOTIONS
        assert examples.images.dtype == np.uint8
        assert examples.labels.dtype == np.int32
        published = [(image, emotion) for emotion, image, row_usage in rows if row_usage == usage]
        assert len(examples.images) == len(published)
        assert as_set(examples.images, examples.labels) == as_set(*zip(*published, strict=True))
        by_usage = load("fer2013", usage, image_size=48, data_dir=tmp_path / "tfds")
        np.testing.assert_array_equal(by_usage.images, examples.images)


def test_ids_are_the_rows_numbers(rows, tmp_path):
    builder = make_builder("fer2013", source=write_source("csv", rows, tmp_path), data_dir=tmp_path / "tfds")
    builder.prepare()
    examples = [example for split in builder.info.splits for example in builder.as_data_source(split)]
    assert sorted(int(example["id"]) for example in examples) == list(range(len(rows)))
    for example in examples:
        emotion, image, _ = rows[int(example["id"])]
        assert example["emotion"] == emotion
        np.testing.assert_array_equal(example["image"][:, :, 0], image)


def test_folder_of_images_keeps_the_published_test_and_holds_out_a_tenth_of_train(tmp_path):
    rng = np.random.default_rng(1)
    published = {"train": {}, "test": {}}
    folders = {"anger": "angry", "disgusted": "disgust", "fearful": "fear", "Happy": "happy", "sad": "sad"}
    for split, count in (("train", 40), ("test", 3)):
        for name in [*folders, "surprised", "neutral"]:
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            emotion = EMOTIONS.index({**folders, "surprised": "surprise"}.get(name, name))
            for i in range(count):
                image = rng.integers(0, 256, (48, 48), np.uint8)
                cv2.imwrite(str(folder / f"{i}.png"), image)
                published[split][image.tobytes()] = emotion

    builder = make_builder("fer2013", source=tmp_path / "images", data_dir=tmp_path / "tfds")
    builder.prepare()
    assert "held out" in " ".join(builder.notes)
    found = {}
    for split in ("train", "validation", "test"):
        examples = load("fer2013", split, image_size=48, data_dir=tmp_path / "tfds")
        found[split] = {image.tobytes(): label for image, label in zip(examples.images, examples.labels, strict=True)}
    assert found["test"] == published["test"]
    assert found["train"] | found["validation"] == published["train"]
    assert len(found["train"]) + len(found["validation"]) == 280
    assert 10 <= len(found["validation"]) <= 50  # 28 expected, standard deviation 5


def damage(rows, line):
    text = fer2013_csv(rows[:3]) + line + "\n"
    return text + fer2013_csv(rows[3:]).split("\n", 1)[1]


GOOD = " ".join(["7"] * 2304)


@pytest.mark.parametrize(
    "line",
    [
        f"3,{GOOD[:-2]},Training",
        f"3,{GOOD} 7,Training",
        f"3,256{GOOD[1:]},Training",
        f"3,x{GOOD[1:]},Training",
        f"7,{GOOD},Training",
        f",{GOOD},Training",
        f"3,{GOOD},Train",
        "3",
        "3,7 7",
    ],
)
def test_a_damaged_row_is_named(line, rows, tmp_path):
    source = tmp_path / "fer2013.csv"
    source.write_text(damage(rows, line))
    rows_of_train = {row.id: row.read for row in read_rows(source, "train")}
    with pytest.raises(FaceflaxError, match=r"source: row 3 \(line 5\) of .*fer2013\.csv"):
        rows_of_train["3"]()
    assert not {"3"} & {row.id for split in ("validation", "test") for row in read_rows(source, split)}


def test_a_damaged_file_leaves_nothing(rows, tmp_path):
    source = tmp_path / "fer2013.csv"
    source.write_text(damage(rows, "3,7 7,PrivateTest"))
    with pytest.raises(FaceflaxError, match=r"row 3 \(line 5\) of .* leave damaged rows out with skip_corrupt"):
        make_builder("fer2013", source=source, data_dir=tmp_path / "tfds").prepare()
    assert list((tmp_path / "tfds").iterdir()) == []


@pytest.mark.parametrize("form", ["csv", "zip"])
def test_skip_corrupt_leaves_out_exactly_the_damaged_rows_and_keeps_their_numbers(form, rows, tmp_path):
    text = damage(rows, f"3,{GOOD},Train\n2,7 7,PrivateTest\n\ud0d0,{GOOD},PrivateTest").encode(errors="surrogatepass")
    source = tmp_path / "fer2013.csv"
    source.write_bytes(text)
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "fer2013.zip", "w") as archive:
            archive.write(source, "fer2013.csv")
        source = tmp_path / "fer2013.zip"
    builder = make_builder("fer2013", source=source, data_dir=tmp_path / "tfds", skip_corrupt=True)
    builder.prepare()
    expected = {"train": ["3"], "test": ["4", "5"]}
    assert builder.skipped == expected
    assert make_builder("fer2013", data_dir=tmp_path / "tfds").skipped == expected  # it is stored
    for split, usage in (("train", "Training"), ("validation", "PublicTest"), ("test", "PrivateTest")):
        examples = load("fer2013", split, image_size=48, data_dir=tmp_path / "tfds")
        assert examples.skipped == len(expected.get(split, ()))
        numbers = [i + 3 * (i >= 3) for i, row in enumerate(rows) if row[2] == usage]
        assert sorted(map(int, examples.ids)) == numbers


def test_skip_corrupt_does_not_make_a_dataset_of_nothing(rows, tmp_path):
    source = tmp_path / "fer2013.csv"
    source.write_text(fer2013_csv(rows[:8]) + "3,7 7,PublicTest\n4,7 7,PublicTest\n")
    with pytest.raises(FaceflaxError, match="no examples but 2 damaged ones for the validation split"):
        make_builder("fer2013", source=source, data_dir=tmp_path / "tfds", skip_corrupt=True).prepare()


def truncated(form, rows, folder):
    file = write_source(form, rows, folder)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


def wrong_source(kind, rows, folder):
    if kind in ("truncated zip", "truncated tar.gz", "truncated csv"):
        return truncated(kind.split()[1], rows, folder)
    if kind == "empty folder":
        (folder / "empty").mkdir()
        return folder / "empty"
    if kind == "encrypted zip":
        file = write_source("zip", rows, folder)
        content = bytearray(file.read_bytes())
        for tag, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.find(tag) + offset] |= 1  # so its header says
        file.write_bytes(content)
        return file
    if kind in ("tar with a folder", "tar with a link"):
        member = tarfile.TarInfo("fer2013.csv")
        member.type, member.linkname = (tarfile.DIRTYPE, "") if kind.endswith("folder") else (tarfile.SYMTYPE, "/etc")
        with tarfile.open(folder / "fer2013.tar.gz", "w:gz") as archive:
            archive.addfile(member)
        return folder / "fer2013.tar.gz"
    if kind == "open quote":
        (folder / "fer2013.csv").write_text(damage(rows, '3,"') + fer2013_csv(rows * 2))
        return folder
    file = folder / {"text": "notes.txt", "other csv": "fer2013.csv", "binary csv": "fer2013.csv"}.get(
        kind, "other.zip"
    )
    if kind == "other zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("train/angry/1.jpg", b"")
    else:
        file.write_bytes({"text": b"hello", "other csv": b"a,b\n1,2\n", "binary csv": b"\x7fELF\xd0\xff"}[kind])
    return file


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated zip", "not a whole CSV, .zip or .tar.gz"),
        ("truncated tar.gz", "cannot read .* download it again"),
        ("truncated csv", "row 7 .line 9. of"),
        ("empty folder", "none of fer2013.csv, icml_face_data.csv, fer2013.tar.gz"),
        ("text", "not a whole CSV, .zip or .tar.gz"),
        ("other csv", r"has the columns \['a', 'b'\], not emotion, pixels and Usage"),
        ("binary csv", "has the columns .*, not emotion, pixels and Usage"),
        ("open quote", "cannot read .* after line [0-9]+ .*field larger"),
        ("other zip", "unpack it and name the folder"),
        ("encrypted zip", "cannot read .* is encrypted"),
        ("tar with a folder", "unpack it and name the folder"),
        ("tar with a link", "unpack it and name the folder"),
    ],
)
def test_a_wrong_source_is_said_to_be_wrong(kind, message, rows, tmp_path):
    source = wrong_source(kind, rows, tmp_path)
    with pytest.raises(FaceflaxError, match="source: .*" + message):
        make_builder("fer2013", source=source, data_dir=tmp_path / "tfds").prepare()


def test_a_split_without_rows_is_an_error(rows, tmp_path):
    source = tmp_path / "fer2013.csv"
    source.write_text(fer2013_csv(rows[:8]))
    with pytest.raises(FaceflaxError, match="no examples for the validation split"):
        make_builder("fer2013", source=source, data_dir=tmp_path / "tfds").prepare()


def test_an_image_folder_that_is_no_emotion_is_named(tmp_path):
    (tmp_path / "train" / "bored").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "train" / "bored" / "1.png"), np.zeros((48, 48), np.uint8))
    with pytest.raises(FaceflaxError, match="bored' is not named after one of the emotions angry, disgust"):
        make_builder("fer2013", source=tmp_path, data_dir=tmp_path / "tfds").prepare()
