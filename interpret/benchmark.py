"""Makes the table of attribution methods and metrics for a network: ``python -m interpret.benchmark``.

Besides the methods it has two rows that do not look at the network, as floors: a random map, and an edge detector
(Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018). A metric on which a method does not beat them says
nothing for it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from faceflax import files
from faceflax.cli import ReportOptions, Weights, run
from faceflax.errors import FaceflaxError, needing_extras, unknown

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Array, Bool, Float, Int

    from interpret.attribution import Method
    from interpret.graph import Images, Model

BATCH = 32
FORMATS = (".md", ".csv", ".json")

SENSITIVITIES = frozenset(
    {
        *("gradient", "smooth_grad", "smooth_grad_squared", "var_grad", "guided_backprop", "deconvnet"),
        "guided_grad_cam",
    }
)
"""The methods whose sign says which way a pixel's brightness acts, and whose map counts in score per unit of a pixel.

The others' sign says whether a pixel speaks for the target, and their maps count in score.
"""

METRICS = {
    "deletion": "lower",
    "insertion": "higher",
    "infidelity": "lower",
    "max-sensitivity": "lower",
    "Gini index": "",
    "cascade SSIM": "lower",
    "cascade rank correlation": "lower",
    "pointing game": "higher",
    "energy inside": "higher",
}
"""The table's columns, and which way is better. Where no masks are known, the last two are left out."""


@dataclass(frozen=True)
class Options:
    """Make the table of attribution methods and metrics for a network, of the class it perceives in each face.

    Lower is better for deletion, infidelity, max-sensitivity and the cascade of randomised layers (how alike the map
    stays, mean over the layers); higher for insertion and, on synthetic faces, whose expression-carrying pixels are
    known, for the pointing game and the energy inside them. The Gini index is sparseness and no merit of its own.
    """

    weights: Weights = "mini_xception-fer2013"
    """Name or .safetensors file of the network's weights."""
    dataset: str = "synthetic"
    """The faces: synthetic ones, or a prepared dataset (fer2013, fairface, ...)."""
    split: str = "test"
    """Split of a prepared dataset."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    samples: int = 32
    """How many faces."""
    methods: tuple[str, ...] = ()
    """Attribution methods; if not given, all but those that need attention."""
    seed: int = 0
    """Seed of the choice of faces and of all perturbations."""
    output: Path = Path("out/benchmark.md")
    """The table, a .md, .csv or .json file."""
    said: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


Rows = Mapping[str, Mapping[str, "Float[np.ndarray, ' images']"]]
"""For each row's name, for each column, the numbers of all images."""


@dataclass(frozen=True)
class Table:
    """Numbers of each image, for rows and columns.

    Attributes:
        better: for each column, ``lower``, ``higher`` or nothing.
        rows: the numbers.
        caption: what they are of.
    """

    better: Mapping[str, str]
    rows: Rows
    caption: str

    def mean(self, row: str, column: str) -> float:
        """The mean over the images."""
        return float(self.rows[row][column].mean())

    def error(self, row: str, column: str) -> float:
        """The mean's standard error."""
        values = self.rows[row][column]
        return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan

    def text(self, suffix: str) -> str:
        """The table as Markdown (means; the last row has each column's largest standard error), CSV or JSON."""
        columns = [column for column in self.better if all(column in row for row in self.rows.values())]
        if suffix == ".md":
            arrows = {"lower": " \N{DOWNWARDS ARROW}", "higher": " \N{UPWARDS ARROW}", "": ""}
            lines = [["method", *(f"{column}{arrows[self.better[column]]}" for column in columns)]]
            lines.append(["---"] * len(lines[0]))
            for row in self.rows:
                lines.append([row.replace("_", " "), *(f"{self.mean(row, column):.3f}" for column in columns)])
            errors = [max(self.error(row, column) for row in self.rows) for column in columns]
            lines.append(["*standard error up to*", *(f"*{error:.3f}*" for error in errors)])
            table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            return f"{table}\n\n{self.caption}\n"
        if suffix == ".csv":
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["method", *(name for column in columns for name in (column, f"{column} standard error"))])
            for row in self.rows:
                numbers = [f(row, column) for column in columns for f in (self.mean, self.error)]
                writer.writerow([row, *(f"{number:.6g}" for number in numbers)])
            return text.getvalue()
        means = {
            row: {
                column: {"mean": self.mean(row, column), "standard_error": self.error(row, column)}
                for column in columns
            }
            for row in self.rows
        }
        better = {column: self.better[column] for column in columns}
        return json.dumps({"caption": self.caption, "better": better, "methods": means}, indent=2) + "\n"


def main(options: Options) -> None:
    """Checks the options, makes the table, writes and prints it."""
    if options.samples < 2:
        raise FaceflaxError("samples", options.samples, "is too few", "give 2 or more")
    if not 0 <= options.seed < 2**32:
        raise FaceflaxError("seed", options.seed, "is no seed", f"give 0 to {2**32 - 1}")
    write_table([options.output], lambda: make_table(options), options.said)


def write_table(outputs: Sequence[Path], make: Callable[[], Table], said: ReportOptions) -> None:
    """Makes a table, writes it to each file, in the format of its suffix and in one step, and says what is in it.

    Raises:
        FaceflaxError: an unknown suffix or a place that cannot be written, before any work.
    """
    for output in outputs:
        if output.suffix.lower() not in FORMATS:
            raise FaceflaxError("output", output, f"is none of {', '.join(FORMATS)}", "name the file so")
        files.writable_file("output", output)
    began = time.monotonic()
    table = make()
    for output in outputs:
        files.write(output, table.text(output.suffix.lower()))
    seconds = time.monotonic() - began
    numbers = json.loads(table.text(".json")) | {"seconds": round(seconds, 3)}
    said.say(f"{table.text('.md')}\n{len(table.rows)} rows; {seconds:.1f} s", numbers, outputs)


def make_table(options: Options) -> Table:
    """Computes the table.

    Raises:
        FaceflaxError: unknown weights, methods or dataset, or a dataset that is not prepared.
    """
    chosen = choose_methods(options.methods)

    import jax
    import jax.numpy as jnp

    from faceflax import pretrained
    from faceflax.preprocessing import normalize
    from interpret.attribution import apply

    loaded = pretrained.load(options.weights)
    (model, variables), info = loaded, loaded.info
    faces, masks = _load_faces(options, info.image_size)
    images = jnp.asarray(normalize(faces))

    def measure(name: str, method: Method, batch: Int[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
        return evaluate(
            method,
            model,
            variables,
            images[batch],
            apply(model, variables, images[batch])[0].argmax(-1),
            signed=name not in SENSITIVITIES,
            key=jax.random.fold_in(jax.random.key(options.seed), batch[0]),
            masks=None if masks is None else masks[batch],
        )

    rows = measure_all(chosen, len(images), measure, METRICS)
    area = "" if masks is None else f"; the masks cover {masks.mean():.3f} of the images"
    caption = (
        f"{info.name} on {len(images)} faces of {options.dataset}, each for the class the network perceives{area}. "
        f"Made with `{command('interpret.benchmark', options)}`."
    )
    return Table(METRICS, rows, caption)


def measure_all(
    methods: Mapping[str, Method],
    count: int,
    measure: Callable[[str, Method, Int[np.ndarray, " batch"]], Mapping[str, Float[np.ndarray, " batch"]]],
    better: Mapping[str, str],
) -> Rows:
    """Measures each method on all images, some at a time, behind a progress bar; Ctrl-C prints the rows that are done.

    Args:
        methods: by name.
        count: how many images there are.
        measure: ``(name, method, indices of images) -> the columns``.
        better: the table's columns.
    """
    import numpy as np
    from tqdm import tqdm

    batches = np.array_split(np.arange(count), -(-count // BATCH))
    rows: dict[str, Mapping[str, np.ndarray]] = {}
    try:
        with tqdm(total=len(methods) * len(batches), unit=" batches", leave=False) as bar:
            for name, method in methods.items():
                bar.set_description(name)
                parts = []
                for batch in batches:
                    parts.append(measure(name, method, batch))
                    bar.update()
                rows[name] = {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}
    except KeyboardInterrupt:
        if rows:
            print(Table(better, rows, "Interrupted: these rows are done, and no file was written.").text(".md"))
        raise
    return rows


def evaluate(
    method: Method,
    model: Model,
    variables: Any,
    images: Images,
    target: Int[Array, " batch"],
    *,
    signed: bool,
    key: Array,
    masks: Bool[np.ndarray, "batch height width"] | None = None,
) -> dict[str, Float[np.ndarray, " batch"]]:
    """Computes every metric of :data:`METRICS` for one method.

    Pixels are replaced by middle grey; squares of a sixth of the side are removed for the (normalised) infidelity.

    Args:
        method: an attribution method.
        model: as the methods take it.
        variables: its variables.
        images: ``[batch, height, width, channels]``, as the model takes them.
        target: the class to explain in each.
        signed: whether the map's sign says if a pixel speaks for the class; not so for :data:`SENSITIVITIES`.
        key: of the perturbations.
        masks: the pixels that should matter, where they are known.

    Returns:
        For each metric, a number for each image.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from interpret import metrics, sanity

    keys = jax.random.split(key, 3)
    attribution = method(model, variables, images, target)
    matters = metrics.importance(attribution, signed=signed)
    per_unit = jnp.where(images == 0, 0, attribution / jnp.where(images == 0, 1, images)) if signed else attribution
    square = metrics.SquareRemoval(max(1, min(images.shape[1:3]) // 6))
    cascade = sanity.cascading_randomization(
        method, model, variables, sanity.shuffled(variables, key=keys[0]), images, target
    ).values()
    numbers = {
        "deletion": metrics.deletion(model, variables, images, target, matters),
        "insertion": metrics.insertion(model, variables, images, target, matters),
        "infidelity": metrics.infidelity(
            model, variables, images, target, per_unit, key=keys[1], perturb=square, normalized=True
        ),
        "max-sensitivity": metrics.max_sensitivity(method, model, variables, images, target, key=keys[2]),
        "Gini index": metrics.gini(attribution),
        "cascade SSIM": np.mean([step.ssim for step in cascade], 0),
        "cascade rank correlation": np.mean([step.rank_correlation for step in cascade], 0),
    }
    if masks is not None:
        numbers["pointing game"] = metrics.pointing_game(matters, masks)
        numbers["energy inside"] = metrics.energy_inside(matters, masks)
    return {name: np.asarray(values, np.float64) for name, values in numbers.items()}


def command(module: str, options: Any) -> str:
    """The command of a module with all options that are not as they are by default, but for files and what is said.

    Example:
        >>> command("interpret.benchmark", Options(samples=8, methods=("gradient", "rise"), output=Path("mine.md")))
        'python -m interpret.benchmark --samples 8 --methods gradient rise'
    """
    words = ["python", "-m", module]
    for option in fields(options):
        value = getattr(options, option.name)
        if value != option.default and not isinstance(value, Path | ReportOptions):
            words += [f"--{option.name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
    return shlex.join(words)


def choose_methods(names: tuple[str, ...], *, attention: bool = False) -> dict[str, Method]:
    """Returns the named methods (if none is named, all that convolutional networks have) and after them the floors.

    Args:
        names: of methods.
        attention: if none is named, those that need attention too.

    Raises:
        FaceflaxError: an unknown name.
    """
    from interpret.methods import ATTENTION, METHODS

    for name in names:
        if name not in METHODS:
            raise unknown("methods", name, METHODS)
    chosen = names or [name for name in METHODS if attention or name not in ATTENTION]
    return {name: METHODS[name] for name in chosen} | {"edges": edges, "random": random}


_REASONS = {
    "applies no ReLU": "no ReLU",
    "has no rule of relevance": "no rule",
    "computes no self-attention": "no attention",
}


def refusal(error: FaceflaxError) -> str:
    """In few words, why a network cannot be explained by a method; raises an error that says anything else.

    Example:
        >>> refusal(FaceflaxError("model", None, "Net computes no self-attention"))
        'no attention'
    """
    short = next((words for part, words in _REASONS.items() if part in str(error)), None)
    if short is None:
        raise error
    operation = re.search(r"'(\w+)'", str(error)) if short == "no rule" else None
    return f"{short} for {operation[1]}" if operation else short


def random(model: Model, variables: Any, images: Images, target: Any) -> Images:
    """A floor: uniform noise, the same for every image and network."""
    import jax

    return jax.random.uniform(jax.random.key(0), images.shape, images.dtype)


def edges(model: Model, variables: Any, images: Images, target: Any) -> Images:
    """A floor: the magnitude of the image's own gradient by central differences, whatever the network."""
    import jax.numpy as jnp

    down, across = jnp.gradient(images, axis=(1, 2))
    return jnp.sqrt(down**2 + across**2)


def _load_faces(options: Options, size: int) -> tuple[np.ndarray, Bool[np.ndarray, "n size size"] | None]:
    """The faces, uint8, and, where they are synthetic, the masks of their expression-carrying pixels."""
    import numpy as np

    if options.dataset == "synthetic":
        from faceflax.data.synthetic import render_faces

        faces = render_faces(options.samples, seed=2 + options.seed, image_size=size)  # 2: the dataset's test split
        return faces.images, faces.expression_masks
    with needing_extras():
        from faceflax import data

        examples = data.load(options.dataset, options.split, image_size=size, data_dir=options.data_dir)
    if options.samples > len(examples.images):
        raise FaceflaxError(
            "samples",
            options.samples,
            f"is more than the {len(examples.images)} faces of {options.dataset} {options.split}",
            "give a smaller number",
        )
    chosen = np.random.default_rng(options.seed).permutation(len(examples.images))[: options.samples]
    return examples.images[chosen], None


if __name__ == "__main__":
    run(main, Options)
