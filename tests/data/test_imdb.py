import cv2
import numpy as np
import pytest
import scipy.io

from faceflax.data import load
from faceflax.data.imdb import read_mat
from faceflax.data.loading import make_builder
from faceflax.errors import FaceflaxError

PEOPLE = 60
PHOTOS = 4  # of each person, of which the filter drops the last


def cells(items):
    """A MATLAB cell array of one row."""
    array = np.empty((1, len(items)), object)
    for i, item in enumerate(items):
        array[0, i] = item
    return array


def write_dataset(folder, name):
    """The published layout: imdb_crop/imdb.mat with its 1x1 struct, and folders of colour JPEGs of many sizes.

    Photo k of a person is black but for a brightness that tells person and photo.
    """
    paths, genders, scores, second, names, ids = [], [], [], [], [], []
    for person in range(PEOPLE):
        for k in range(PHOTOS):
            path = f"{person % 10:02d}/nm{person:07d}_rm{k}_1899-5-10_1968.jpg"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / path), np.full((200 if k == 0 else 40, 40, 3), 60 * k + person, np.uint8))
            paths.append(path)
            genders.append(person % 2)
            scores.append(3.5)
            second.append(np.nan)
            names.append(f"Person {person}")
            ids.append(person + 1)
    for person in range(PEOPLE):
        last = person * PHOTOS + PHOTOS - 1
        if person % 4 == 0:
            scores[last] = 3.0
        elif person % 4 == 1:
            scores[last] = -np.inf
        elif person % 4 == 2:
            second[last] = 1.2
        else:
            genders[last] = np.nan
    struct = {
        "dob": np.full((1, len(paths)), 693726),
        "photo_taken": np.full((1, len(paths)), 1968),
        "full_path": cells(paths),
        "gender": np.array([genders], float),
        "name": cells(names),
        "face_location": cells([np.array([[1.0, 2.0, 3.0, 4.0]])] * len(paths)),
        "face_score": np.array([scores], float),
        "second_face_score": np.array([second], float),
    }
    if name == "imdb":
        struct["celeb_names"] = cells([f"Person {person}" for person in range(PEOPLE)])
        struct["celeb_id"] = np.array([ids], float)
    scipy.io.savemat(folder / f"{name}.mat", {name: struct})
    return folder


@pytest.fixture(params=["imdb", "wiki"])
def name(request):
    return request.param


@pytest.fixture
def source(name, tmp_path):
    return write_dataset(tmp_path / f"{name}_crop", name)


def read(builder):
    """{split: {(person, photo): example}}"""
    found = {}
    for split in builder.info.splits:
        for example in builder.as_data_source(split):
            person, photo = example["id"].decode().split("/nm")[1].split("_rm")
            found.setdefault(split, {})[int(person), int(photo[0])] = example
    return found


def test_filter_labels_people_and_pictures(name, source, tmp_path):
    builder = make_builder(name, source=source.parent, data_dir=tmp_path / "tfds")
    builder.prepare()
    found = read(builder)

    photos = {key: example for examples in found.values() for key, example in examples.items()}
    assert set(photos) == {(person, k) for person in range(PEOPLE) for k in range(PHOTOS - 1)}
    assert sum(map(len, found.values())) == len(photos)
    for (person, k), example in photos.items():
        assert builder.info.features["gender"].int2str(example["gender"]) == ["woman", "man"][person % 2]
        assert example["image"].shape == ((128, 26, 1) if k == 0 else (40, 40, 1))
        assert abs(int(example["image"][5, 5, 0]) - (60 * k + person)) <= 2

    people = [{person for person, _ in found[split]} for split in ("train", "validation", "test")]
    assert sum(map(len, people)) == PEOPLE  # nobody is in two splits
    assert len(people[0]) > 35  # 48 expected, standard deviation 3.1
    assert f"{len(photos)} of {PEOPLE * PHOTOS} photos" in builder.notes[0]

    examples = load(name, "train", image_size=64, data_dir=tmp_path / "tfds")
    assert examples.images.shape == (len(found["train"]), 64, 64, 1)
    assert examples.names == ("woman", "man")


def test_missing_and_damaged_photos_are_an_error_or_left_out_and_counted(tmp_path):
    source = write_dataset(tmp_path / "imdb_crop", "imdb")
    builder = make_builder("imdb", source=source, data_dir=tmp_path / "tfds")
    builder.prepare()
    first, second = list(read(builder)["train"])[:2]
    files = [next(source.glob(f"*/nm{person:07d}_rm{k}_*")) for person, k in (first, second)]
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:200])

    with pytest.raises(FaceflaxError, match=r"cannot read the image .*\.jpg'.* leave damaged rows out with skip_cor"):
        builder.prepare()
    builder.skip_corrupt = True
    builder.prepare()
    assert not {first, second} & set(read(builder)["train"])
    assert builder.skipped == {"train": sorted(str(file.relative_to(source)) for file in files)}


def test_without_any_photo_it_is_an_error(tmp_path):
    source = write_dataset(tmp_path / "imdb_crop", "imdb")
    for file in source.glob("*/*.jpg"):
        file.unlink()
    with pytest.raises(FaceflaxError, match=r"no examples but [0-9]+ damaged ones for the train split of imdb"):
        make_builder("imdb", source=source, data_dir=tmp_path / "tfds", skip_corrupt=True).prepare()


def test_wiki_people_without_a_name_are_told_apart_by_their_photo(tmp_path):
    source = write_dataset(tmp_path / "wiki_crop", "wiki")
    struct = scipy.io.loadmat(source / "wiki.mat")["wiki"]
    for i in range(0, PEOPLE * PHOTOS, 2):
        struct["name"][0, 0][0, i] = np.array([], "U1")
    scipy.io.savemat(source / "wiki.mat", {"wiki": struct})
    builder = make_builder("wiki", source=source, data_dir=tmp_path / "tfds")
    builder.prepare()
    assert sum(map(len, read(builder).values())) == PEOPLE * (PHOTOS - 1)


@pytest.mark.parametrize("change", ["shorter", "text", "two columns", "gone"])
@pytest.mark.parametrize("column", ["full_path", "gender", "face_score", "celeb_id"])
def test_columns_that_do_not_fit_together_are_refused(column, change, tmp_path):
    struct = scipy.io.loadmat(write_dataset(tmp_path, "imdb") / "imdb.mat")["imdb"][0, 0]
    columns = {name: struct[name] for name in struct.dtype.names}
    match change:
        case "shorter":
            columns[column] = columns[column][:, :-1]
        case "text":
            columns[column] = "none"
        case "two columns":
            columns[column] = np.concatenate([columns[column]] * 2)
        case "gone":
            del columns[column]
    scipy.io.savemat(tmp_path / "imdb.mat", {"imdb": columns})
    with pytest.raises(FaceflaxError, match=r"source: .* is not IMDB-WIKI's imdb\.mat, or is damaged \(.+\)"):
        read_mat(tmp_path / "imdb.mat", "imdb", "celeb_id")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no imdb\.mat in .*https://data\.vision\.ee\.ethz\.ch"),
        (b"", r"is not IMDB-WIKI's imdb\.mat"),
        (b"hello" * 100, r"is not IMDB-WIKI's imdb\.mat"),
        ({"imdb": np.zeros(3)}, r"is not IMDB-WIKI's imdb\.mat"),
        ({"other": {"gender": 1}}, r"is not IMDB-WIKI's imdb\.mat"),
    ],
)
def test_a_wrong_mat_file(content, message, tmp_path):
    source = tmp_path / "imdb_crop"
    source.mkdir()
    if isinstance(content, dict):
        scipy.io.savemat(source / "imdb.mat", content)
    elif content is not None:
        (source / "imdb.mat").write_bytes(content)
    with pytest.raises(FaceflaxError, match="source: .*" + message):
        make_builder("imdb", source=source, data_dir=tmp_path / "tfds").prepare()


def test_the_reference_splits_by_the_photos_names(tmp_path):
    source = write_dataset(tmp_path / "imdb_crop", "imdb")
    builder = make_builder("imdb_reference", source=source.parent, data_dir=tmp_path / "tfds")
    builder.prepare()
    names = {split: {each["id"].decode() for each in builder.as_data_source(split)} for split in builder.info.splits}
    everything = sorted(names["train"] | names["validation"])
    assert len(everything) == PEOPLE * (PHOTOS - 1)
    assert names == {"train": set(everything[:144]), "validation": set(everything[144:])}
    with pytest.raises(FaceflaxError, match="split: unknown 'test'; choose one of: train, validation"):
        load("imdb_reference", "test", image_size=48, data_dir=tmp_path / "tfds")
