"""Pictures whose truth is known by construction, and the table of what maps say of networks that learned them."""

from __future__ import annotations

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError
from interpret import benchmark, metrics, scenes, shapes


@pytest.fixture(scope="module")
def drawn():
    return scenes.render_scenes(400, seed=3)


def test_neither_object_says_anything_of_the_other(drawn):
    """Shapes and tags are drawn evenly and independently, and so is where they are."""
    counts = np.zeros((scenes.CLASSES, scenes.CLASSES))
    np.add.at(counts, (drawn.shapes, drawn.tags), 1)
    expected = len(drawn.shapes) / counts.size
    assert ((counts - expected) ** 2 / expected).sum() < 25 + 15  # chi square of 15 degrees; beyond it once in 2000
    assert not (drawn.shape_masks & drawn.tag_masks).any()
    assert drawn.shape_masks.any((1, 2)).all()
    side = scenes.TAG + 2  # with the pixels beside it, less its corners
    areas = drawn.tag_masks.sum((1, 2))
    assert areas.max() == side**2 - 4
    assert areas.min() >= (scenes.TAG + 1) ** 2 - 1  # in a corner of the picture


@pytest.mark.parametrize("what", ["shapes", "tags"])
def test_only_what_was_exchanged_is_another(drawn, what):
    other = scenes.render_scenes(
        400, seed=3, **({"shapes": drawn.shapes, "tags": drawn.tags} | {what: (getattr(drawn, what) + 1) % 4})
    )
    changed = (drawn.images != other.images).any(-1)
    assert changed.any((1, 2)).all()
    masks = drawn.tag_masks if what == "tags" else drawn.shape_masks | other.shape_masks
    assert not (changed & ~masks).any()


def test_shapes_are_what_they_are_called(drawn):
    """Of upright shapes in the middle: the area, the centre's colour, and the symmetries."""
    kinds = np.arange(4)
    middle = np.full((2, 4), 11.5)
    square, triangle, cross, ring = scenes._inside(kinds, middle, np.full(4, 6.0), np.zeros(4))
    for each in (square, triangle, cross, ring):
        np.testing.assert_array_equal(each, each[:, ::-1])
    for each in (square, cross, ring):
        np.testing.assert_array_equal(each, each.T)
    assert not np.array_equal(triangle, triangle[::-1])
    assert not ring[11:13, 11:13].any()
    assert all(each[11:13, 11:13].all() for each in (square, triangle, cross))
    assert abs(square.sum() - (1.6 * 6) ** 2) < 12
    assert abs(ring.sum() - np.pi * 6**2 * 0.75) < 12


class Colours(nn.Module):
    """Answers by what it was made to look at, without having learned it."""

    def __call__(self, images, train=False):
        red, green, blue = (images[..., i] for i in range(3))
        seen = (red - green - blue, green - red - blue, blue - red - green, red + green - 3 * blue)
        strongest = jnp.stack([jax.nn.relu(each - 0.4).mean((1, 2)) for each in seen], 1)
        return strongest, {"last_conv": jnp.stack(seen, -1)}


def test_the_table_of_a_network_whose_reasons_are_written_down(drawn):
    """One that sees nothing but colours is explained by the tag, and not by an object that is grey."""
    few = scenes.Scenes(*(values[:12] for values in drawn))
    case = shapes.Case(Colours(), {}, few, few.tags, few.tag_masks, few.shape_masks, {"as the tag says": 1.0})
    methods = {"gradient_x_input": interpret.gradient_x_input, "guided_backprop": interpret.guided_backprop}
    methods |= {"lrp_epsilon": interpret.lrp_epsilon, "attention_rollout": interpret.attention_rollout}
    table = shapes.measured(methods | {"random": benchmark.random}, {("CNN", "tag"): case})
    right = {name: row["CNN", "tag"] for name, row in table.items()}
    assert right["attention_rollout"] == "no attention"
    assert right["gradient_x_input"]["right object"].mean() > 0.9
    assert right["random"]["pointing game"].mean() < 0.5
    text = shapes.page(table, {("CNN", "tag"): case}, "made so", "picture.png")
    mean = " / ".join(f"{right['gradient_x_input'][measure].mean():.2f}" for measure in shapes.MEASURES)
    assert f"| `gradient_x_input` | {mean} |" in text
    assert "| `attention_rollout` | \N{EN DASH} no attention |" in text
    numbers = shapes.as_numbers(table, {("CNN", "tag"): case})["methods"]["random"]["CNN, tag"]["pointing game"]
    assert numbers["mean"] == right["random"]["pointing game"].mean()
    assert numbers["standard_error"] == pytest.approx(right["random"]["pointing game"].std(ddof=1) / np.sqrt(12))


@pytest.mark.slow
def test_a_network_that_learned_tags_is_explained_by_them():
    """It answers by the tag alone, and its gradient times input is denser there than on the shape."""
    train, test = scenes.render_scenes(1024, seed=0), scenes.render_scenes(256, seed=1)
    network = scenes.NETWORKS["CNN"]
    variables = scenes.fit(network, train, train.tags, seed=0, epochs=8)
    assert (scenes.answers(network, variables, test.images) == test.tags).mean() > 0.95
    few = scenes.Scenes(*(values[:32] for values in test))
    maps = interpret.gradient_x_input(network, variables, scenes.scaled(few.images), few.tags)
    matters = metrics.importance(maps, signed=True)
    here, there = (metrics.attribution_localisation(matters, m) for m in (few.tag_masks, few.shape_masks))
    assert np.mean(here > there) > 0.8


@pytest.mark.slow
def test_the_whole_command(tmp_path, capsys):
    options = shapes.Options(
        output=tmp_path / "page.md", methods=("gradient", "guided_backprop"), samples=3, train_scenes=64, epochs=1
    )
    shapes.main(options)
    page = (tmp_path / "page.md").read_text()
    assert "python -m interpret.shapes --methods gradient guided_backprop --samples 3" in page
    assert page.count("\N{EN DASH} no ReLU") == 3  # of the ViT, which has GELU
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    held = json.loads((tmp_path / "page.json").read_text())
    assert list(held["methods"]) == ["gradient", "guided_backprop", "edges", "random"]
    assert list(held["networks"]) == [f"{a}, {b}" for a in ("CNN", "ViT") for b in shapes.TAUGHT]
    assert page in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 1}, "samples: 1 is too small; give 2 or more"),
        ({"train_scenes": 63}, "train_scenes: 63 is too small; give 64 or more"),
        ({"epochs": 0}, "epochs: 0 is too small; give 1 or more"),
        ({"seed": -1}, "seed: -1 is too small; give 0 or more"),
        ({"methods": ("gradcam",)}, "methods: unknown 'gradcam'; choose one of: gradient, "),
    ],
)
def test_bad_input(tmp_path, changes, message):
    with pytest.raises(FaceflaxError, match=message):
        shapes.main(shapes.Options(output=tmp_path / "page.md", **changes))
    assert not list(tmp_path.iterdir())
