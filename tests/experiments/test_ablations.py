"""One change at a time: rows kept and not made again, gains as a plain count of images gives them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import ablations
from faceflax import FaceflaxError, data, pretrained
from faceflax.data.augment import Augmentation
from faceflax.data.loading import make_builder
from faceflax.preprocessing import normalize
from faceflax.training.config import TrainConfig


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A prepared ``fer2013``: 64 training rows and 40 of each other split."""
    root = tmp_path_factory.mktemp("fer")
    generator = np.random.default_rng(0)
    lines = ["emotion,pixels,Usage"]
    for usage, count in (("Training", 64), ("PublicTest", 40), ("PrivateTest", 7)):
        for _ in range(count):
            lines.append(f"{generator.integers(7)},{' '.join(map(str, generator.integers(0, 256, 48 * 48)))},{usage}")
    (root / "fer2013.csv").write_text("\n".join(lines) + "\n")
    make_builder("fer2013", source=root / "fer2013.csv", data_dir=root / "tfds").prepare()
    return root


def options(root, *only, **more):
    return ablations.Options(
        only=only, data_dir=root / "tfds", epochs=1, runs=root / "runs", results=root / "ablations.json", **more
    )


@pytest.mark.slow
def test_a_row_is_made_once_and_its_gain_is_of_the_same_images(root, capsys):
    ablations.main(options(root, "order 1", "FER+ votes, half"))
    printed = capsys.readouterr().out
    assert "FER+ votes, half: left out; it needs --ferplus" in printed
    content = json.loads((root / "ablations.json").read_text())
    assert content["recipe"] == {"arch": "mini_xception", "dataset": "fer2013", "epochs": 1}
    rows = content["rows"]
    assert list(rows) == ["base", "order 1"]
    examples = data.load("fer2013", "validation", image_size=48, data_dir=root / "tfds")
    right = {}
    for name, folder in (("base", "base"), ("order 1", "order_1")):
        model, variables = pretrained.load(root / "runs" / folder / "weights.safetensors")
        logits, _ = model.apply(variables, normalize(examples.images))
        right[name] = np.asarray(logits).argmax(-1) == examples.labels
        assert (rows[name]["right"], rows[name]["images"]) == (right[name].sum(), 40)
    better, worse = (right["order 1"] & ~right["base"]).sum(), (~right["order 1"] & right["base"]).sum()
    gain = (better - worse) / 40
    assert rows["order 1"]["gain"] == pytest.approx(gain)
    # The variance of numbers -1, 0 and 1, counted.
    variance = ((better + worse) - 40 * gain**2) / 39
    assert rows["order 1"]["gain_error"] == pytest.approx(np.sqrt(variance / 40))

    written = (root / "ablations.json").read_bytes()
    ablations.main(options(root, "order 1"))
    assert (root / "ablations.json").read_bytes() == written
    assert "order 1:" not in capsys.readouterr().out.splitlines()


def test_wrong_options_are_named(root, tmp_path):
    with pytest.raises(FaceflaxError, match="only: unknown 'prayer'"):
        ablations.main(options(root, "prayer"))
    file = tmp_path / "ablations.json"
    file.write_text("[]")
    with pytest.raises(FaceflaxError, match=r"results: .* is not such a file"):
        ablations.read(file, {})
    file.write_text('{"recipe": {"epochs": 3}, "rows": {}}')
    with pytest.raises(FaceflaxError, match=r"results: .* is of \{'epochs': 3\}, not of \{'epochs': 4\}"):
        ablations.read(file, {"epochs": 4})


def fields(of):
    return {field.name for field in dataclasses.fields(of)}


def test_recorded_rows_name_the_commit_that_had_their_options_and_are_not_made_again(root):
    recipe = {"arch": "mini_xception", "dataset": "fer2013", "epochs": 10}
    rows = ablations.read(Path(ablations.__file__).with_suffix(".json"), recipe)
    assert set(rows) == {*ablations.ABLATIONS, *ablations.RECORDED}
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in ablations.table(rows)}
    for name in ablations.RECORDED:
        assert set(rows[name]["changes"]) - fields(TrainConfig) - fields(Augmentation)
        assert rows[name]["commit"] == "cac2caa"
        assert f"{name}, at commit cac2caa" in lines
        with pytest.raises(FaceflaxError, match=rf"^only: '{name}' was measured at commit cac2caa"):
            ablations.main(options(root, name))
    assert "harms" in lines["cutmix, at commit cac2caa"]
    for name, changes in ablations.ABLATIONS.items():
        assert json.loads(json.dumps(changes)) == rows[name]["changes"]
        assert set(changes) <= fields(TrainConfig) | fields(Augmentation)


def test_changes_reach_the_run_and_its_augmentation():
    config = ablations.changed(ablations.BASE, {"epochs": 3, "erase": 0.25, "zoom": 0.0})
    assert config.epochs == 3
    assert config.augmentation == Augmentation(erase=0.25, zoom=0.0)
    assert config.average == ablations.BASE.average
