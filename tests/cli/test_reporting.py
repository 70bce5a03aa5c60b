"""How much a command says: all, one JSON object, or errors alone."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import pytest
import tyro
from tqdm import tqdm

from faceflax.cli import main as cli
from faceflax.cli import run
from faceflax.cli.reporting import ReportOptions, complain
from faceflax.data.synthetic import render_faces
from faceflax.errors import FaceflaxError
from faceflax.labels import EMOTIONS

ASKED = (
    *("live", "analyze", "demo", "saliency", "explain-benchmark"),
    *("prepare-data", "train", "evaluate", "export", "convert-keras"),
)


@dataclass(frozen=True)
class Options:
    """Talk."""

    count: int = 3
    file: Path = Path("none.txt")
    said: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def talkative(options):
    """A command that speaks on every way there is."""
    for _ in tqdm(range(options.count), "working"):
        print("on the way")
        tqdm.write("and above the bar")
    print("a warning", file=sys.stderr)
    logging.getLogger("faceflax").warning("logged")
    if options.count == 0:
        raise FaceflaxError("count", 0, "is too few", "give 1 or more")
    complain("one of them was bad")
    options.said.say(f"{options.count} done", {"count": options.count}, [options.file, None], then="faceflax info")


@pytest.fixture(autouse=True)
def levels():
    """Commands set the level of the package's logger."""
    logger = logging.getLogger("faceflax")
    before = logger.level
    yield
    logger.setLevel(before)


def said(capsys, *arguments, main=talkative, options=Options):
    with pytest.raises(SystemExit) as stop:
        run(main, options, prog="talk", arguments=list(map(str, arguments)))
    return stop.value.code, *capsys.readouterr()


@pytest.fixture
def file(tmp_path):
    written = tmp_path / "written.txt"
    written.write_text("x")
    return written


def test_in_words_the_summary_is_last_and_names_the_files_and_what_comes_next(capsys, file):
    code, out, err = said(capsys, "--file", file)
    assert code == 0
    assert out == 3 * "on the way\nand above the bar\n" + f"3 done\nwrote {file}\nnext: faceflax info\n"
    assert "working" in err
    assert err.endswith("one of them was bad\n")


def test_json_is_all_that_the_standard_output_gets(capsys, file):
    code, out, err = said(capsys, "--file", file, "--json")
    assert code == 0
    assert out.count("\n") == 1
    assert json.loads(out) == {"count": 3, "files": [str(file)], "next": "faceflax info"}
    assert err.count("on the way") == err.count("and above the bar") == 3
    assert "working" in err


def test_a_file_that_is_not_there_is_not_named(capsys):
    assert json.loads(said(capsys, "--json")[1])["files"] == []


def test_quiet_prints_errors_alone(capsys):
    assert said(capsys, "--quiet") == (0, "", "one of them was bad\n")
    assert said(capsys, "--quiet", "--count", 0) == (2, "", "error: --count: 0 is too few; give 1 or more\n")


def test_after_an_error_there_is_no_object(capsys):
    code, out, err = said(capsys, "--json", "--count", 0)
    assert (code, out) == (2, "")
    assert err.endswith("error: --count: 0 is too few; give 1 or more\n")


def test_what_a_command_says_afterwards_is_heard_again(capsys):
    said(capsys, "--quiet")
    print("still there")
    complain("and here")
    assert capsys.readouterr() == ("still there\n", "and here\n")
    assert logging.getLogger("faceflax").level == logging.INFO


@pytest.mark.parametrize("name", ASKED)
def test_both_at_once_are_refused(capsys, name):
    command = cli.load(name)
    needed = {"analyze": ["x"], "export": ["x"], "prepare-data": ["folder"], "convert-keras": ["a", "b"]}
    needed["evaluate"] = ["--weights", "x", "--dataset", "x"]
    code, out, err = said(
        capsys, *needed.get(name, []), "--quiet", "--json", main=command.main, options=command.Options
    )
    assert (code, out) == (2, "")
    assert err == "error: --json: is said, and --quiet says nothing; leave one of them out\n"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Drawn faces of two emotions, 16 of each for training and 4 for each other split."""
    folder = tmp_path_factory.mktemp("pictures")
    faces = render_faces(300, seed=4, image_size=32)
    for name in ("happy", "surprise"):
        chosen = [i for i in range(300) if EMOTIONS[faces.emotions[i]] == name][:24]
        for number, i in enumerate(chosen):
            place = folder / ("train" if number < 16 else "validation" if number < 20 else "test") / name / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place), faces.images[i])
    return folder


@pytest.mark.slow
def test_the_commands_of_a_training_say_what_programs_need(pictures, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))

    def asked(line, how="--json"):
        with pytest.raises(SystemExit) as stop:
            cli.main([*line.split(), how])
        out, err = capfd.readouterr()
        assert stop.value.code == 0, err
        if how == "--quiet":
            assert (out, err) == ("", "")
            return {}
        assert out.count("\n") == 1, out
        found = json.loads(out)
        assert found["files"]
        assert all(Path(file).exists() for file in found["files"])
        assert found["seconds"] > 0
        return found

    data = asked(f"prepare-data folder --source {pictures}")
    assert data["counts"]["train"] == {"happy": 16, "surprise": 16}
    assert not data["already_prepared"]
    asked("prepare-data folder", "--quiet")
    run = asked("train --dataset folder --image-size 32 --epochs 1 --batch-size 8 --output run")
    assert (run["epochs"], run["dataset"]) == (1, "folder")
    measured = asked(run["next"].removeprefix("faceflax ") + " --report report")
    numbers = json.loads(Path("report/metrics.json").read_text())
    assert numbers["images"] == 8
    assert {name: measured[name] for name in numbers} == numbers
    asked(run["next"].removeprefix("faceflax "), "--quiet")
    written = asked("export run/weights.safetensors --output mine.safetensors")
    assert sorted(written["files"]) == ["mine.json", "mine.safetensors"]
    assert written["bytes"] == sum(Path(name).stat().st_size for name in written["files"])
    explained = asked(
        f"saliency --images {pictures}/test --whole-image --samples 1 --arch mini_xception --method gradient"
    )
    assert (explained["faces"], explained["weights"]) == (2, ["mini_xception-fer2013"])
    asked(f"saliency --images {pictures}/test --whole-image --samples 1 --arch mini_xception", "--quiet")
