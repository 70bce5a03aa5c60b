"""Do attributions say what a network looked at, where that is known by construction? ``python -m interpret.shapes``.

Each picture (:mod:`interpret.scenes`) has a shape on a texture and elsewhere a coloured tag. A small CNN and a small
ViT are taught three times: the shape's kind, with tags that tell nothing; the tag's kind, with shapes that tell
nothing; and labels that both tell alike, so that the tag is a confounder. The first two can only use what they were
taught. What the third uses is seen where both disagree: the object whose class it answers. All are then explained on
new pictures whose shape and tag disagree, and the table says for each method and network how often the map's highest
point lies on the object that decides (the pointing game), and how often positive importance is denser there than on the
other object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from faceflax import files
from faceflax.cli import ReportOptions, run
from faceflax.errors import FaceflaxError
from faceflax.files import writable_file
from interpret.benchmark import SENSITIVITIES, choose_methods, command, refusal

if TYPE_CHECKING:
    import flax.linen as nn
    import numpy as np
    from jaxtyping import Bool, Float, Int
    from matplotlib.figure import Figure

    from interpret.attribution import Method
    from interpret.scenes import Scenes

TAUGHT = ("shape", "tag", "both")
"""What the labels are: the shape's kind, the tag's, or one that both have alike."""

MEASURES = ("pointing game", "right object")
TEST_SEED = 1
EASY = 4
"""Tags are learned in this share of the passes that shapes need."""

LAYERS = {"CNN": "last_conv", "ViT": "encoder1"}
SHOWN = ("integrated_gradients", "grad_cam", "occlusion")
"""The methods in the picture."""


@dataclass(frozen=True)
class Options:
    """See whether attributions find the object that decides: a shape on a texture, or a tag that is a confounder.

    Higher is better for both numbers: how often the highest point of the map lies on the object that decides, and how
    often positive importance is denser there than on the other object (0.5 for a map that says nothing).
    """

    output: Path = Path("out/shapes.md")
    """The page; a picture .png and the numbers .json are written beside it."""
    methods: tuple[str, ...] = ()
    """Attribution methods; all if not given."""
    samples: int = 48
    """Pictures to explain for each network."""
    train_scenes: int = 6144
    """Pictures to learn from."""
    epochs: int = 12
    """Passes over them to learn shapes; a quarter of them to learn tags."""
    seed: int = 0
    """Seed of the networks' first weights."""
    said: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


class Case(NamedTuple):
    """A network, what it is explained on, and the truth.

    Attributes:
        model: as the methods take it.
        variables: what it learned.
        scenes: pictures, whose shape and tag disagree.
        target: the class to explain in each, which is the network's answer.
        decides: the pixels of the object that decides.
        other: those of the other object.
        said: how well it learned, and what its answers depend on.
    """

    model: Any
    variables: Any
    scenes: Scenes
    target: Int[np.ndarray, " n"]
    decides: Bool[np.ndarray, "n side side"]
    other: Bool[np.ndarray, "n side side"]
    said: Mapping[str, float]


def main(options: Options) -> None:
    """Checks the options, teaches the networks, explains them and writes the page."""
    for name, low in {"samples": 2, "train_scenes": 64, "epochs": 1, "seed": 0}.items():
        if getattr(options, name) < low:
            raise FaceflaxError(name, getattr(options, name), "is too small", f"give {low} or more")
    methods = choose_methods(options.methods, attention=True)
    output, picture, numbers = (
        writable_file("output", options.output.with_suffix(suffix)) for suffix in (".md", ".png", ".json")
    )

    import io
    import json

    cases = taught_networks(options)
    table = measured(methods, cases)
    made_with = command("interpret.shapes", options)
    figure = drawn(cases)
    with io.BytesIO() as content:
        figure.savefig(content, format="png", dpi=110)
        files.write(picture, content.getvalue())
    text = page(table, cases, made_with, picture.name)
    held = as_numbers(table, cases)
    files.write(numbers, json.dumps(held, indent=2) + "\n")
    files.write(output, text)
    options.said.say(text, held, [output, picture, numbers])


def taught_networks(
    options: Options, networks: Sequence[str] = tuple(LAYERS), taught: Sequence[str] = TAUGHT
) -> dict[tuple[str, str], Case]:
    """Teaches networks kinds of labels, all of both by default; for each (network, labels) what it is explained on."""
    import numpy as np
    from tqdm import tqdm

    from interpret import scenes as made

    train = made.render_scenes(options.train_scenes, seed=0)
    alike = made.render_scenes(options.train_scenes, seed=0, shapes=train.shapes, tags=train.shapes)
    lessons = {"shape": (train, train.shapes), "tag": (train, train.tags), "both": (alike, alike.shapes)}

    count = 4 * options.samples  # of them three quarters disagree, and some are answered wrongly
    test = made.render_scenes(count, TEST_SEED)
    tags = np.where(test.tags == test.shapes, (test.tags + 1) % made.CLASSES, test.tags)
    test = made.render_scenes(count, TEST_SEED, shapes=test.shapes, tags=tags)
    unlike = {
        "another shape": made.render_scenes(count, TEST_SEED, shapes=(test.shapes + 1) % made.CLASSES, tags=tags),
        "another tag": made.render_scenes(count, TEST_SEED, shapes=test.shapes, tags=(tags + 1) % made.CLASSES),
    }

    cases = {}
    with tqdm(total=len(networks) * len(taught), unit=" networks", leave=False) as bar:
        for name in networks:
            network = made.NETWORKS[name]
            for lesson in taught:
                bar.set_description(f"{name} learns {lesson}")
                epochs = options.epochs if lesson == "shape" else max(1, options.epochs // EASY)
                variables = made.fit(network, *lessons[lesson], seed=options.seed, epochs=epochs)
                cases[name, lesson] = _case(name, lesson, network, variables, test, unlike, options.samples)
                bar.update()
    return cases


def _case(
    name: str, taught: str, network: nn.Module, variables: Any, test: Scenes, unlike: Mapping[str, Scenes], samples: int
) -> Case:
    import numpy as np

    import interpret
    from interpret import scenes as made

    given = made.answers(network, variables, test.images)
    by_shape, by_tag = given == test.shapes, given == test.tags
    right = {"shape": by_shape, "tag": by_tag, "both": by_shape | by_tag}[taught]
    said = {"as the shape says": by_shape.mean(), "as the tag says": by_tag.mean()} | {
        f"{what}: another answer": (made.answers(network, variables, scenes.images) != given).mean()
        for what, scenes in unlike.items()
    }
    chosen = np.flatnonzero(right)
    chosen = np.resize(chosen if len(chosen) else np.arange(len(given)), samples)
    scenes = made.Scenes(*(values[chosen] for values in test))
    shape_decides = by_shape[chosen][:, None, None]
    decides = np.where(shape_decides, scenes.shape_masks, scenes.tag_masks)
    other = np.where(shape_decides, scenes.tag_masks, scenes.shape_masks)
    grids = {LAYERS[name]: (made.SIDE // 4, made.SIDE // 4)} if name == "ViT" else None
    model, variables = interpret.wrap(network, variables, train=False, grids=grids)
    return Case(model, variables, scenes, given[chosen], decides, other, {k: float(v) for k, v in said.items()})


def measured(
    methods: Mapping[str, Method], cases: Mapping[tuple[str, str], Case]
) -> dict[str, dict[tuple[str, str], Any]]:
    """For each method, for each (network, labels), the numbers of each measure, or why it cannot be used."""
    from tqdm import tqdm

    table: dict[str, dict[tuple[str, str], Any]] = {}
    with tqdm(total=len(methods) * len(cases), unit=" cells", leave=False) as bar:
        for name, method in methods.items():
            bar.set_description(name)
            table[name] = {}
            for key, case in cases.items():
                table[name][key] = _cell(name, method, LAYERS[key[0]], case)
                bar.update()
    return table


def _cell(name: str, method: Method, layer: str, case: Case) -> Any:
    import numpy as np

    from interpret import metrics
    from interpret.methods import METHODS
    from interpret.scenes import scaled

    options = {"layer": layer} if name in METHODS else {}
    try:
        maps = method(case.model, case.variables, scaled(case.scenes.images), case.target, **options)
    except FaceflaxError as error:
        return refusal(error)
    matters = metrics.importance(maps, signed=name not in SENSITIVITIES)
    here, there = (np.asarray(metrics.attribution_localisation(matters, m)) for m in (case.decides, case.other))
    return {
        "pointing game": np.asarray(metrics.pointing_game(matters, case.decides), np.float64),
        "right object": (here > there) + (here == there) / 2,
    }


def as_numbers(table: Mapping[str, Any], cases: Mapping[tuple[str, str], Case]) -> dict[str, Any]:
    """The table as JSON: means and their standard errors."""
    return {
        "networks": {", ".join(key): case.said for key, case in cases.items()},
        "methods": {
            name: {
                ", ".join(key): cell
                if isinstance(cell, str)
                else {
                    measure: {"mean": values.mean(), "standard_error": _error(values)}
                    for measure, values in cell.items()
                }
                for key, cell in row.items()
            }
            for name, row in table.items()
        },
    }


def _error(values: Float[np.ndarray, " n"]) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def page(
    table: Mapping[str, Mapping[tuple[str, str], Any]],
    cases: Mapping[tuple[str, str], Case],
    made_with: str,
    picture: str,
) -> str:
    """The page, as Markdown.

    Args:
        table: for each method, for each (network, labels), the numbers of each measure, or why it cannot be used.
        cases: the networks.
        made_with: the command that makes it so.
        picture: the picture's file, beside the page.
    """
    lines = [["", *(f"{network}, {taught}" for network, taught in cases)], ["---"] * (len(cases) + 1)]
    for what in next(iter(cases.values())).said:
        lines.append([what, *(f"{case.said[what]:.2f}" for case in cases.values())])
    learned = _markdown(lines)

    lines = [["method", *(f"{network}, {taught}" for network, taught in cases)], ["---"] * (len(cases) + 1)]
    for name, row in table.items():
        cells = (
            f"\N{EN DASH} {cell}" if isinstance(cell, str) else " / ".join(f"{cell[m].mean():.2f}" for m in MEASURES)
            for cell in row.values()
        )
        lines.append([f"`{name}`", *cells])
    ran = [[row[key] for row in table.values() if not isinstance(row[key], str)] for key in cases]
    errors = [" / ".join(f"*{max(_error(cell[m]) for cell in each):.2f}*" for m in MEASURES) for each in ran]
    lines.append(["*standard error up to*", *errors])
    shares = [f"{case.decides.mean():.2f} / 0.50" for case in cases.values()]
    lines.append(["*chance*", *shares])
    count = len(next(iter(cases.values())).target)
    return f"""# Shapes, tags and shortcuts

<!-- Made by `python -m interpret.shapes`; what is written here by hand is lost. -->

```
{made_with}
```

Each picture has a shape (square, triangle, cross or ring) on a texture, and elsewhere a coloured tag. A small CNN and a
small ViT are taught three times: *shape*, the shape's kind, with tags that tell nothing; *tag*, the tag's kind, with
shapes that tell nothing; *both*, labels that shape and tag say alike, so that the tag is a confounder. What decides is
known by construction for the first two. For the third it is the object whose class the network answers on new pictures,
in which the two disagree. On those, the share of answers that are as the shape or the tag says, and that become another
when only the shape or only the tag is changed:

{learned}

Each method is given {count} of these pictures, of those that a network answers by what it was taught, and the class
that it answers. The first number is the pointing game: how often the map's highest point lies on the object that
decides. The second says how often positive importance is denser on that object than on the other one. Higher is better
for both. Pixels beside an object count as its own, as its outline is there; `edges` and `random` do not look at the
network.

![Shapes, tags and what maps say of them]({picture})

{_markdown(lines)}
"""


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def drawn(cases: Mapping[tuple[str, str], Case]) -> Figure:
    """Two pictures for each kind of labels, and for each network some methods' maps of them."""
    import numpy as np

    from interpret import scenes as made
    from interpret.figures import Panel, attribution_grid
    from interpret.methods import METHODS

    networks = list(dict.fromkeys(name for name, _ in cases))
    images = [cases[networks[0], taught].scenes.images[:2] for taught in TAUGHT]
    panels = []
    for network in networks:
        for method in SHOWN:
            maps = []
            for taught, shown in zip(TAUGHT, images, strict=True):
                model, variables = cases[network, taught][:2]
                inputs = made.scaled(shown)
                target = np.asarray(model.apply(variables, inputs, train=False)[0].argmax(1))
                found = METHODS[method](model, variables, inputs, target, layer=LAYERS[network])
                maps.append(np.asarray(found, np.float64).sum(-1))
            panels.append(Panel(f"{network}\n{method.replace('_', ' ')}", np.concatenate(maps)))
    rows = {f"{taught} {i + 1}": np.array([2 * t + i]) for t, taught in enumerate(TAUGHT) for i in range(2)}
    return attribution_grid(
        rows,
        np.concatenate(images),
        panels,
        title="What networks look at that were taught shapes, tags, or labels that both say alike",
        caption="Red speaks for the class that the network answers, blue against it",
        column="picture",
    )


if __name__ == "__main__":
    run(main, Options)
