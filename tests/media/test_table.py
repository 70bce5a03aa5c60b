"""The table's formats against each other, and as other programs read them."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from faceflax.faces.face import FACE_COLUMNS, LANDMARKS, Face
from faceflax.faces.frame import Frame
from faceflax.media import table
from faceflax.media.table import COLUMNS, INPUT_COLUMNS, read_rows, rows_of, write_table

IMAGE = np.full((48, 64, 3), 100, np.uint8)
POINTS = np.float32([[10, 20.06], [30, 20], [20, 30], [12, 40], [28, 40]])
CROPS = {(0.1, 64): np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)}
FACE = Face(
    *((1, 2, 30, 40), "happy", np.eye(7, dtype=np.float32)[3], "man", np.float32([0.25, 0.75])),
    *(4, 0.875, POINTS, CROPS, True, False),
)
NAMES = [
    "clip.mp4",
    'a, "b".mp4',
    "two\nlines.jpg",
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@x",
    "caf\udce9.jpg",
    "50%.png",
    "日本",
]


def rows(names=NAMES):
    for index, name in enumerate(names):
        frame = Frame(IMAGE, name, index, index / 3)
        yield from rows_of(frame, [FACE, replace(FACE, track_id=None, landmarks=None, crops={})], "video")
        yield from rows_of(frame, [], "video", every_frame=True)


@pytest.fixture(params=table.SUFFIXES)
def written(request, tmp_path):
    path = tmp_path / f"o{request.param}"
    write_table(path, rows(), COLUMNS)
    return path


def test_every_format_holds_the_same_rows(written):
    read = list(read_rows(written))
    assert len(read) == 3 * len(NAMES)
    for row, expected in zip(read, rows(), strict=True):
        assert tuple(row) == COLUMNS.names
        for name, value in row.items():
            if name == "input" and written.suffix == ".csv":
                value = value.removeprefix("'")
            assert value == COLUMNS.value(name, expected[name]), name


def load_with_pandas(path):
    if path.suffix == ".csv":
        return pd.read_csv(path)
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_json(path, lines=True)


def load_with_polars(path):
    polars = pytest.importorskip("polars")
    if path.suffix == ".csv":
        return polars.read_csv(path)
    return polars.read_parquet(path) if path.suffix == ".parquet" else polars.read_ndjson(path)


@pytest.mark.parametrize("load", [load_with_pandas, load_with_polars])
def test_pandas_and_polars_read_numbers_as_numbers(written, load):
    loaded = load(written)
    assert sorted(loaded.columns) == sorted(COLUMNS.names)  # polars sorts those of JSON
    assert len(loaded) == 3 * len(NAMES)
    numbers = [name for name, kind in COLUMNS.kinds.items() if kind is not str]
    sums = {name: sum(row[name] or 0 for row in read_rows(written)) for name in numbers}
    for name in numbers:
        assert float(loaded[name].sum()) == pytest.approx(sums[name]), name
    assert loaded["emotion"][0] == "happy"
    assert loaded["track"][0] == 4
    missing = loaded["face"].isna() if hasattr(loaded["face"], "isna") else loaded["face"].is_null()
    assert int(missing.sum()) == len(NAMES)  # frames without a face


def test_no_cell_of_a_csv_file_is_a_formula(tmp_path):
    write_table(tmp_path / "o.csv", rows(["=1", "+1", "-1", "@1", "\t=1", "\r=1"]), COLUMNS)
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as file:
        names = [row["input"] for row in csv.DictReader(file)][::3]
    assert names == ["'=1", "'+1", "'-1", "'@1", "'\t=1", "'\r=1"]


def test_negative_numbers_stay_numbers(tmp_path):
    face = replace(FACE, box=(-5, -6, 30, 40), landmarks=POINTS - 50)
    write_table(tmp_path / "o.csv", rows_of(Frame(IMAGE, "a"), [face], "image"), COLUMNS)
    loaded = pd.read_csv(tmp_path / "o.csv")
    assert (loaded.x[0], loaded.y[0], loaded.eye_left_x[0]) == (-5, -6, -40.0)


def test_parquet_has_the_version_and_types(tmp_path):
    write_table(tmp_path / "o.parquet", rows(), COLUMNS)
    schema = pyarrow.parquet.read_schema(tmp_path / "o.parquet")
    assert schema.metadata[b"faceflax.schema"] == str(table.SCHEMA).encode()
    assert {str(schema.field(name).type) for name in ("frame", "x", "track")} == {"int64"}
    assert {str(schema.field(name).type) for name in ("time", "score", "emotion_sad")} == {"double"}


def test_a_table_without_rows_has_its_columns(tmp_path):
    for suffix in (".csv", ".parquet"):
        write_table(tmp_path / f"o{suffix}", [], INPUT_COLUMNS)
        assert tuple(load_with_pandas(tmp_path / f"o{suffix}").columns) == INPUT_COLUMNS.names


def test_lines_become_parquet_a_part_at_a_time(tmp_path):
    names = [f"{index}" for index in range(10_001)]
    found = [row | {"input": name} for name in names for row in rows_of(Frame(IMAGE), [FACE], "image")]
    (tmp_path / "lines").write_text(COLUMNS.json(found))
    table.lines_to_parquet(tmp_path / "lines", tmp_path / "o.parquet")
    assert [row["input"] for row in read_rows(tmp_path / "o.parquet")] == names
    assert pyarrow.parquet.ParquetFile(tmp_path / "o.parquet").num_row_groups == 2


def test_a_face_as_a_dictionary():
    row = FACE.to_dict()
    assert tuple(row) == tuple(FACE_COLUMNS)
    assert json.loads(json.dumps(row)) == row  # plain numbers and text
    assert [row[f"{name}_x"] for name in LANDMARKS] == [10, 30, 20, 12, 28]
    assert (row["track"], row["score"], row["gender_man"], row["sharpness"]) == (4, 0.875, 0.75, FACE.sharpness)


def test_pixels_are_those_of_the_file_where_it_was_reduced():
    plain, scaled = FACE.to_dict(), FACE.to_dict((2.0, 4.0))
    for name, value in plain.items():
        if name in ("x", "width", "size") or name.endswith("_x"):
            assert scaled[name] == value * 2
        elif name in ("y", "height") or name.endswith("_y"):
            assert scaled[name] == value * 4
        else:
            assert scaled[name] == value


def test_sharpness_falls_when_the_crop_is_blurred():
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 256, (64, 64), np.uint8)
    blurred = ((sharp.astype(int) + np.roll(sharp, 1, 0) + np.roll(sharp, 1, 1)) // 3).astype(np.uint8)
    values = [replace(FACE, crops={(0.1, 64): crop}).sharpness for crop in (sharp, blurred, np.full_like(sharp, 9))]
    assert values[0] > 2 * values[1] > 0
    assert values[2] == 0


def test_the_documentation_names_every_column():
    text = (Path(__file__).resolve().parents[2] / "docs/tables.md").read_text()
    for columns in (COLUMNS, INPUT_COLUMNS):
        for name in columns.names:
            assert f"`{name}`" in text, name
