"""The command ``faceflax export`` for other runtimes; under a new name it is tested with training."""

from __future__ import annotations

import pytest

from faceflax.cli import run
from faceflax.cli.export import Options, main


def start(*arguments):
    with pytest.raises(SystemExit) as stop:
        run(main, Options, prog="faceflax export", arguments=[str(word) for word in arguments])
    return stop.value.code


def test_it_names_each_file_that_it_wrote(tmp_path, capsys):
    assert start("mini_xception-fairface", "--output", tmp_path / "genders.onnx") == 0
    assert capsys.readouterr().out.endswith(f"wrote {tmp_path / 'genders.onnx'}\n")
    assert (tmp_path / "genders.onnx").stat().st_size > 100_000


def test_the_file_has_the_weights_name_if_no_other_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert start("mini_xception-fer2013", "--format", "safetensors") == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "mini_xception-fer2013.json",
        "mini_xception-fer2013.safetensors",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--format: is not given; give onnx, stablehlo, tflite or safetensors, or a new name for trained weights"),
        (["mine", "--format", "onnx"], "--format: is for a file of another runtime, not for 'mine'; leave one of them"),
        (["--output", "a.pb"], "--output: 'a.pb' ends in none of .onnx, .stablehlo, .safetensors, .tflite; name it so"),
        (["--output", "a.stablehlo", "--int8"], "--int8: is for ONNX; add --format onnx, or leave it out"),
    ],
)
def test_what_does_not_go_together(arguments, said, capsys):
    assert start("mini_xception-fer2013", *arguments) == 2
    assert f"error: {said}" in capsys.readouterr().err


def test_a_detector_has_no_int8(capsys):
    assert start("face_detector-faces", "--format", "onnx", "--int8") == 2
    assert capsys.readouterr().err == (
        "error: --int8: is for networks that label faces; 'face_detector-faces' finds them; leave it out\n"
    )
