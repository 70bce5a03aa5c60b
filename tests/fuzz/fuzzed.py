"""Damaged and hostile input of one kind, drawn from a seed, and what faceflax makes of it.

    python tests/fuzz/fuzzed.py KIND SEED FIRST COUNT FOLDER

runs the inputs FIRST to FIRST + COUNT of a kind and prints a line for each: ``ok`` or ``refused``, or what was wrong.
test_fuzz.py runs it in processes of their own, since a fault may end one.
"""

from __future__ import annotations

import contextlib
import csv
import faulthandler
import hashlib
import io
import json
import logging
import random
import re
import resource
import signal
import sys
import tarfile
import tempfile
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from faceflax.errors import FaceflaxError

SECONDS, WAITING = 20, 120
"""Of the processor's time, which does not depend on what else the machine does; and of the clock's."""
MEGABYTES = 2000
NUMBERS = [
    "-1",
    "0",
    "1e400",
    "nan",
    "-inf",
    "9" * 400,
    "9" * 5000,
    str(2**63),
    "1e-400",
    "True",
    "null",
    '""',
    "[]",
    "{}",
]
NAMES = ["../x", "/etc/passwd", "a\0b", "x" * 300, "\udcff", "=1+1", "\r\n", "$\\frac{a$", "./a", "x//y", "", "."]


def damaged(rng, content):
    """Some bytes changed, taken out, doubled or put in."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(content) + 1)
        end = min(len(content), at + rng.choice([1, 2, 4, 16, 200]))
        match rng.randrange(7):
            case 0 | 1:
                if content:
                    content[min(at, len(content) - 1)] ^= 1 << rng.randrange(8)
            case 2:
                del content[at:]
            case 3:
                del content[at:end]
            case 4:
                content[at:at] = content[at:end]
            case 5:
                content[at:end] = bytes(end - at)
            case 6:
                content[at:end] = rng.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80", rng.randbytes(8)])
    return bytes(content)


def rewritten(rng, text):
    """A text some of whose values are others."""
    words = text.split('"') if rng.random() < 0.5 else text.split(",")
    joint = '"' if len(words) > 1 and '"'.join(words) == text else ","
    for _ in range(rng.choice([1, 1, 3])):
        words[rng.randrange(len(words))] = rng.choice(NUMBERS + NAMES)
    return joint.join(words)


EMPTY = re.compile(r"(?<!shape) \(\)(?! is )|\(None\)|\(\w+: ?\)|; ?[,;)]|, ?;|: ?;|[:;,] ?$")
"""What a message has where a part of it is missing; an empty list of labels is a value."""


def wrong_with(message):
    """Why a message is none, or None."""
    if "\n" in message:
        return f"several lines: {message!r}"
    return f"a part is missing: {message}" if EMPTY.search(message) else None


def picture(seed, size=48):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def encoded(form, seed=0):
    file = io.BytesIO()
    Image.fromarray(picture(seed)).save(file, form)
    return file.getvalue()


def images(rng, folder):
    from faceflax import media, preprocessing

    form = rng.choice(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"])
    content = damaged(rng, encoded(form))
    file = folder / f"x.{form.lower()}"
    file.write_bytes(content)
    with contextlib.suppress(FaceflaxError):
        assert preprocessing.read_image("source", file).dtype == np.uint8
    image, scale = media.read_image(file)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert min(scale) > 0


_VIDEOS = {}


def videos(rng, folder):
    from faceflax import media
    from faceflax.media.writing import VideoFile

    suffix = rng.choice([".mp4", ".webm"])
    if suffix not in _VIDEOS:
        from faceflax.faces.frame import Frame

        made = folder / f"whole{suffix}"
        video = VideoFile(made, 25.0)
        for index in range(12):
            image = np.full((48, 64, 3), 20 * index, np.uint8)
            video.write(Frame(image, index=index, time=index / 25), image)
        video.close()
        _VIDEOS[suffix] = made.read_bytes()
    file = folder / f"x{suffix}"
    file.write_bytes(damaged(rng, _VIDEOS[suffix]))
    source = media.open_file(file, warn=lambda line: None)
    count = 0
    with contextlib.closing(source.frames):
        for frame in source.frames:
            assert frame.image.dtype == np.uint8
            count += 1
    assert count <= 1000


def archives(rng, folder):
    from faceflax import batch, media
    from faceflax.batch.archives import ERRORS, Archive

    names = ["a.png", "./b.jpg", "x//y.gif", "album.jpg/", "caf\xe9.png", rng.choice(["z.png", "../up.png", "=1.png"])]
    forms = {".png": "PNG", ".jpg": "JPEG", ".gif": "GIF"}
    file = folder / rng.choice(["x.zip", "x.tar", "x.tar.gz"])
    made = io.BytesIO()
    if file.suffix == ".zip":
        with zipfile.ZipFile(
            made, "w", rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_STORED])
        ) as archive:
            for name in names:
                archive.writestr(name, b"" if name.endswith("/") else encoded(forms[name[-4:]]))
    else:
        with tarfile.open(fileobj=made, mode="w:gz" if file.suffix == ".gz" else "w") as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                content = b"" if name.endswith("/") else encoded(forms[name[-4:]])
                info.size, info.type = len(content), tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                archive.addfile(info, io.BytesIO(content))
    content = made.getvalue()
    whole = rng.random() < 0.1
    file.write_bytes(content if whole else damaged(rng, content))
    found, _ = batch.find_inputs([file])
    read = 0
    for item in found:
        with contextlib.suppress(FaceflaxError, *ERRORS), contextlib.closing(Archive(file, item.archive)) as archive:
            if item.kind == "image":
                with archive.open(item.member) as member:
                    media.read_image(member)
                    read += 1
    wanted = sum(not name.endswith("/") and ".." not in name for name in names)
    assert not whole or read == wanted, f"{read} of {wanted} whole members were read"


def _weights(folder):
    from faceflax import pretrained

    file = folder / "x.safetensors"
    shipped = pretrained.reading.SHIPPED / "mini_xception-fairface.safetensors"
    return file, shipped.read_bytes(), shipped.with_suffix(".json").read_text()


def weights(rng, folder):
    from faceflax.inference import folding

    file, content, record = _weights(folder)
    change = damaged(rng, content[:4000]) + content[4000:] if rng.random() < 0.7 else damaged(rng, content)
    file.write_bytes(change)
    if rng.random() < 0.9:
        record = json.dumps(json.loads(record) | {"sha256": hashlib.sha256(change).hexdigest()})
    file.with_suffix(".json").write_text(record)
    folding.load(file)


def records(rng, folder):
    from faceflax import pretrained

    file, content, record = _weights(folder)
    file.write_bytes(content)
    if rng.random() < 0.5:
        values = json.loads(record)
        others = [None, 10**400, -1, 1e300, [], {}, "x" * 10_000, True, [[]], {"test": 10**400}, ["\udcff"], [1] * 10]
        values[rng.choice(list(values))] = rng.choice(others)
        record = json.dumps(values)
    else:
        record = rewritten(rng, record)
    if rng.random() < 0.3:
        record = damaged(rng, record.encode("utf-8", "surrogateescape")).decode("latin-1")
    file.with_suffix(".json").write_text(record, encoding="utf-8", errors="surrogateescape")
    info, _ = pretrained.read(file)
    assert 32 <= info.image_size <= 4096
    assert 0 <= info.crop_margin <= 2


def mat(rng, folder):
    import scipy.io

    from faceflax.data import imdb

    count = 5
    columns = {
        "full_path": np.array([f"0/{i}.jpg" for i in range(count)], object),
        "gender": np.arange(count) % 2 * 1.0,
        "face_score": np.full(count, 4.0),
        "second_face_score": np.full(count, np.nan),
        "celeb_id": np.arange(count) * 1.0,
    }
    if rng.random() < 0.5:
        name = rng.choice(list(columns))
        others = [columns[name][:3], np.array(["x"] * count, object), np.zeros((count, 2)), "text", 3.0, np.zeros(0)]
        columns[name] = rng.choice(others)
        if rng.random() < 0.2:
            del columns[name]
    scipy.io.savemat(folder / "imdb.mat", {"imdb": columns})
    content = (folder / "imdb.mat").read_bytes()
    if rng.random() < 0.6:
        content = damaged(rng, content)
    (folder / "imdb.mat").write_bytes(content)
    table = imdb.read_mat(folder / "imdb.mat", "imdb", "celeb_id")
    assert len({len(column) for column in table.values()}) == 1
    ((table["face_score"] > 3) & np.isnan(table["second_face_score"]) & np.isin(table["gender"], (0, 1))).sum()


def tables(rng, folder):
    """The publishers' CSV files."""
    from faceflax.data import fairface, fer2013, ferplus

    kind = rng.choice(["fer2013", "ferplus", "fairface"])
    text = io.StringIO()
    writer = csv.writer(text)
    if kind == "fer2013":
        writer.writerow(["emotion", "pixels", "Usage"])
        for row in range(4):
            writer.writerow([row, " ".join(map(str, range(100))) + " 7" * 2204, "Training"])
    elif kind == "ferplus":
        writer.writerow(["Usage", "Image name", *ferplus.COLUMNS])
        for row in range(4):
            writer.writerow(["Training", f"fer{row:07}.png", *([2] * len(ferplus.COLUMNS))])
    else:
        writer.writerow(["file", "age", "gender", "race"])
        for row in range(4):
            writer.writerow([f"train/{row}.jpg", "3-9", "Male", "White"])
        (folder / "train").mkdir(exist_ok=True)
        for row in range(4):
            (folder / f"train/{row}.jpg").write_bytes(encoded("JPEG"))
    content = rewritten(rng, text.getvalue()).encode("utf-8", "surrogateescape")
    if rng.random() < 0.5:
        content = rng.choice([b"", b"\xef\xbb\xbf"]) + damaged(rng, content)
    file = folder / f"{kind}.csv"
    if kind == "fer2013" and rng.random() < 0.3:
        with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("fer2013.csv", content)
        file = folder / "x.zip"
        file.write_bytes(damaged(rng, file.read_bytes()))
    else:
        file.write_bytes(content)
    if kind == "ferplus":
        ferplus.read_votes("source", file)
        return
    if kind == "fer2013":
        rows = list(fer2013.read_rows(file, "train"))
    else:
        (folder / "fairface_label_train.csv").write_bytes(content)
        builder = object.__new__(fairface.Fairface)
        builder.source = folder
        rows = [builder._row(row) for row in builder._rows("fairface_label_train.csv")]
    for row in rows:
        with contextlib.suppress(FaceflaxError):
            row.read()


def journals(rng, folder):
    from faceflax import batch
    from faceflax.batch.inputs import Record

    path = folder / "faces.jsonl"
    journal = batch.journal_of(path)
    for file in (path, journal):
        file.unlink(missing_ok=True)
    rows = [f'{{"row": {row}, "text": "{"x" * row}"}}\n' for row in range(8)]
    with batch.open_table(path, {"weights": "w"}) as table:
        for row, text in enumerate(rows):
            table.write(text)
            table.finish([Record(f"{row}.png", "image", "done")])
    chosen = rng.choice([path, journal, journal])
    chosen.write_bytes(damaged(rng, chosen.read_bytes()))
    before = path.read_bytes(), journal.read_bytes()
    try:
        with batch.open_table(path, {"weights": "w"}) as table:
            known = len(table.records)
    except FaceflaxError:
        assert (path.read_bytes(), journal.read_bytes()) == before
        raise
    assert path.read_text() == "".join(rows[:known]), "the table has other rows than its journal says"


_DATASET = {}


def datasets(rng, folder):
    from faceflax.data import loading

    if not _DATASET:
        for split in ("train", "validation"):
            for name in ("left", "right"):
                place = folder / "images" / split / name
                place.mkdir(parents=True, exist_ok=True)
                for index in range(3):
                    (place / f"{index}.png").write_bytes(encoded("PNG", index))
        with contextlib.redirect_stderr(io.StringIO()):
            loading.make_builder("folder", source=folder / "images", data_dir=folder / "tfds").prepare()
        _DATASET["files"] = {f: f.read_bytes() for f in (folder / "tfds").rglob("*") if f.is_file()}
        _DATASET["right"] = loading.load("folder", "train", image_size=32, data_dir=folder / "tfds")
    for file, content in _DATASET["files"].items():
        file.write_bytes(content)
    file = rng.choice(sorted(_DATASET["files"]))
    file.write_bytes(damaged(rng, file.read_bytes()))
    found, right = loading.load("folder", "train", image_size=32, data_dir=folder / "tfds"), _DATASET["right"]
    assert found.names == right.names, "other classes"
    np.testing.assert_array_equal(found.images, right.images)
    np.testing.assert_array_equal(found.labels, right.labels)


def checkpoints(rng, folder):
    """The newest of two is damaged, or both are."""
    from faceflax.training.checkpoints import Checkpoints, Record
    from faceflax.training.run import Begun
    from faceflax.training.step import adam, create_state

    def state(step):
        numbers = np.random.default_rng(step)
        return create_state(
            {"params": {"a": numbers.normal(size=(3, 4)).astype(np.float32)}, "batch_stats": {}}, adam(0.1)
        )

    def record(step):
        return Record(step, [{"validation_accuracy": 0.5}], Begun(), {"seed": 1}, ["a"], {"dataset": "x"}, 1)

    place = folder / "checkpoints"
    if not _CHECKPOINTS:
        made = _CHECKPOINTS["made"] = Checkpoints(place)
        for step in (1, 2):
            assert made.save(state(step), record(step))
        made.wait()
        _CHECKPOINTS["files"] = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    made, files = _CHECKPOINTS["made"], _CHECKPOINTS["files"]
    for step in ("1", "2"):
        if (place / f"{step}.damaged").exists():
            (place / f"{step}.damaged").rename(place / step)
    for file, content in files.items():
        file.write_bytes(content)
    whole = {1, 2}
    for step in rng.choice([[2], [2], [1, 2]]):
        file = rng.choice(sorted(file for file in files if file.is_relative_to(place / str(step))))
        content = damaged(rng, files[file])
        if rng.random() < 0.1:
            file.unlink()
        else:
            file.write_bytes(content)
        if not file.exists() or content != files[file]:
            whole.discard(step)
    found = made.newest()
    assert found == record(max(whole)), "another record"
    for leaf, right in zip(
        *(tree_leaves(each) for each in (made.restore(found.step, state(0)), state(found.step))), strict=True
    ):
        np.testing.assert_array_equal(leaf, right)


_CHECKPOINTS = {}


def tree_leaves(tree):
    import jax

    return jax.tree.leaves(tree)


_KERAS = {}


def keras_file(file):
    """The reference's network with drawn weights, as Keras 2 saves it."""
    import h5py
    import jax
    from flax.traverse_util import flatten_dict

    from faceflax import models
    from faceflax.pretrained import keras

    shapes = jax.eval_shape(lambda: models.init(models.create("mini_xception", 2), jax.random.key(0), 64))
    numbers = np.random.default_rng(0)
    tensors = {k: numbers.uniform(0.5, 1, v.shape).astype(np.float32) for k, v in flatten_dict(shapes, sep="/").items()}
    renamed = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
    layers = []
    with h5py.File(file, "w") as made:
        for node, (kind, settings, inputs) in keras._graph().items():
            name = node.replace("/", "_")
            inbound = [[[source.replace("/", "_"), 0, 0, {}] for source in inputs]] if inputs else []
            given = {"name": name, **settings} | ({} if inputs else {"batch_input_shape": [None, 64, 64, 1]})
            layers.append({"class_name": kind, "config": given, "name": name, "inbound_nodes": inbound})
            arrays = {
                k.rsplit("/", 1)[1]: t for k, t in tensors.items() if k.partition("/")[2].rsplit("/", 1)[0] == node
            }
            if kind == "BatchNormalization":
                arrays = {renamed[key]: t for key, t in arrays.items()}
            elif "depthwise" in arrays:
                arrays = {
                    "depthwise_kernel": arrays["depthwise"].transpose(0, 1, 3, 2),
                    "pointwise_kernel": arrays["pointwise"][None, None],
                }
            group = made.create_group(f"model_weights/{name}")
            group.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in arrays]
            for key, array in arrays.items():
                group[f"{name}/{key}:0"] = array
        config = {"layers": layers, "output_layers": [["probabilities", 0, 0]]}
        made.attrs["model_config"] = json.dumps({"config": config})
    return file.read_bytes()


def keras(rng, folder):
    from faceflax.pretrained import keras

    file = folder / "x.hdf5"
    if not _KERAS:
        _KERAS["whole"] = keras_file(file)
        assert keras.read(file).num_classes == 2
    content = _KERAS["whole"]
    if rng.random() < 0.5:  # the description of its layers, of the same length
        start = content.index(b'{"config"') + 1000 * rng.randrange(8)
        text = rewritten(rng, content[start : start + 1000].decode()).encode("utf-8", "surrogateescape")
        content = content[:start] + text[:1000].ljust(1000) + content[start + 1000 :]
    else:
        content = damaged(rng, content)
    file.write_bytes(content)
    found = keras.read(file)
    assert (found.arch, found.num_classes) == ("mini_xception", 2)
    assert 32 <= found.image_size <= 4096


OUTPUTS = {
    "--csv",
    "--jsonl",
    "--parquet",
    "--report",
    "--output",
    "--output-dir",
    "--json",
    "--snapshots",
    "--data-dir",
}
VALUES = [
    *(value for value in NUMBERS + NAMES if value != "/etc/passwd"),
    *("1", "2", "3.5", "fifo", "socket", "folder", "image.png", "text.csv", "none.csv", "none.png", "x" * 300 + ".csv"),
    *(
        "-9" * 400,
        "1e300",
        "0.5,",
        "a=b",
        "--",
        "-",
        "~",
        "*",
        "file:///dev/zero",
        "ftp://x/y",
        "http://",
        "demo",
        "\ud800",
    ),
    *("mini_xception-fer2013", "face_detector-faces", "hf://", "folder/" + "x" * 300, "folder/../x"),
]
INPUTS = ["/dev/zero", "/dev/full", "/proc/self/mem", "/dev"]
COMMANDS = {
    "analyze": ["image.png", "--csv", "t.csv", "--preset", "fast"],
    "live": ["--source", "image.png", "--headless", "--preset", "fast"],
    "app": ["--port", "0", "--no-browser"],
    "demo": [],
    "saliency": ["--images", "image.png", "--output", "s.png"],  # shows no face
    "explain-benchmark": ["--dataset", "folder/none", "--data-dir", "none", "--output", "b.md"],
    "prepare-data": ["folder", "--source", "pictures", "--name", "mine", "--data-dir", "tfds", "--overwrite"],
    "train": ["--dataset", "folder/none", "--data-dir", "none"],
    "evaluate": ["--weights", "mini_xception-fer2013", "--dataset", "folder/none", "--data-dir", "none"],
    "export": ["mini_xception-fer2013", "--format", "safetensors", "--output", "e.safetensors"],
    "convert-keras": ["text.csv", "k.safetensors"],
    "benchmark": [],
}
"""What a drawn option is added to: short work, or what is refused late."""
LAST = {"app": ["--token", "short"], "demo": ["--emotion-weights", "none"], "benchmark": ["--json", "fifo"]}
"""What stands behind it where the work is long: these are refused."""


def options(rng, folder):
    """A command with one or two odd values, in this process, which is in a folder of its own."""
    import os
    import socket

    from faceflax.cli import command, main

    if not _OPTIONS:
        place = Path(tempfile.mkdtemp(dir=folder)) / "inner"  # of this process alone: it may be the second one
        (place / "pictures" / "a").mkdir(parents=True)
        (place / "pictures" / "b").mkdir()
        (place / "folder").mkdir()
        os.chdir(place)
        for index in range(20):
            Path(f"pictures/{'ab'[index % 2]}/{index}.png").write_bytes(encoded("PNG", index))
        Path("image.png").write_bytes(encoded("PNG"))
        Path("text.csv").write_text("a,b\n")
        os.mkfifo("fifo")
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket")
        _OPTIONS.update({name: list(command.option_names(main.load(name).Options).values()) for name in COMMANDS})
    for left in Path().glob("[a-z].*"):
        left.unlink()
    name = rng.choice(list(COMMANDS))
    words = [name, *COMMANDS[name]]
    for _ in range(rng.choice([1, 1, 2])):
        option = rng.choice(_OPTIONS[name])
        value = rng.choice(VALUES if option in OUTPUTS or not option.startswith("-") else VALUES + INPUTS)
        words += [option, value] if option.startswith("-") else [value]
    words += LAST.get(name, [])
    shown, said = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    code = None
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
        try:
            main.main(words)
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            error.add_note(repr(words)[:1000])
            raise
    said.flush()
    text = said.buffer.getvalue().decode()
    assert code in (0, 1, 2), f"{words} ends with {code}"
    assert "Traceback" not in text, f"{words} {text}"
    if code == 2:
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 or "\u256d" in text, f"{words} {text}"  # or the parser's box
        assert not [wrong for line in errors if (wrong := wrong_with(line))], f"{words} {errors}"
        raise FaceflaxError("options", None, "were refused")


_OPTIONS = {}


KINDS = {
    "images": images,
    "videos": videos,
    "archives": archives,
    "weights": weights,
    "records": records,
    "keras": keras,
    "mat": mat,
    "tables": tables,
    "journals": journals,
    "datasets": datasets,
    "checkpoints": checkpoints,
    "options": options,
}
"""What reads a drawn input."""


def peak():
    """MiB of this program; on Linux, the usage of its resources would include what forked it."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main(kind, seed, first, count, folder):
    warnings.simplefilter("ignore")
    check = KINDS[kind]
    logging.basicConfig(format="%(message)s")
    for number in (signal.SIGALRM, signal.SIGPROF):  # which end the process
        faulthandler.register(number, chain=True)
    signal.alarm(10 * SECONDS)
    with contextlib.suppress(Exception):  # imports all that it needs
        check(random.Random(0), folder)
    for number in range(first, first + count):
        rng = random.Random(f"{seed} {kind} {number}")
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(WAITING)
        try:
            check(rng, folder)
            answer = "ok"
        except FaceflaxError as error:
            answer = wrong_with(str(error)) or "refused"
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            answer = f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({where.filename}:{where.lineno})"
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        used = peak()
        if used > MEGABYTES:
            answer += f" {used:.0f} MB"
        print(number, answer.encode("ascii", "backslashreplace").decode(), flush=True)
        if used > MEGABYTES:
            return


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5]))
