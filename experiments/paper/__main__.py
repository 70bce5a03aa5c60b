"""``python -m experiments.paper``; see :mod:`experiments.paper`."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.paper import CLAIMS
from faceflax import files
from faceflax.cli import run
from faceflax.errors import FaceflaxError, unknown

if TYPE_CHECKING:
    from experiments.paper.record import Record
    from experiments.paper.study import Study

GENDER_DATASETS = ("fairface", "imdb")


@dataclass(frozen=True)
class Options:
    """Test the study's claims and write what was found as one page, report.html.

    A claim that is finished, and a training, is kept in the output folder; the same command continues after an
    interruption.
    """

    only: tuple[str, ...] = ()
    """Names of claims: sizes, pipeline, confusions, interpretability, glasses, chaining, multilevel, choices,
    finetuning; all if not given."""
    quick: bool = False
    """A rehearsal on synthetic faces in about a minute; its numbers mean nothing."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    dataset_gender: str = "fairface"
    """What gender is learned and tested on: fairface or imdb, as in the study (give weights trained on it, too)."""
    weights_mini_emotion: str = "mini_xception-fer2013"
    """mini_xception for perceived emotion: shipped name or .safetensors."""
    weights_mini_gender: str = "mini_xception-fairface"
    """mini_xception for perceived gender."""
    weights_sequential_emotion: str = "sequential_cnn-fer2013"
    """sequential_cnn for perceived emotion."""
    weights_sequential_gender: str = "sequential_cnn-fairface"
    """sequential_cnn for perceived gender."""
    output: Path = Path("out/paper")
    """Folder for report.html, records and trainings."""


def main(options: Options) -> None:
    """Checks what is needed, runs the claims that are not finished, writes the page and prints the verdicts."""
    for name in options.only:
        if name not in CLAIMS:
            raise unknown("only", name, CLAIMS)
    if options.dataset_gender not in GENDER_DATASETS:
        raise unknown("dataset_gender", options.dataset_gender, GENDER_DATASETS)
    records, trainings = (files.writable_folder("output", options.output / name) for name in ("records", "trainings"))

    from faceflax.training.memory import keep_freed_memory

    keep_freed_memory()

    from tqdm import tqdm

    from experiments.paper import report
    from experiments.paper.record import Record
    from experiments.paper.study import Study, Task

    tasks: tuple[Task, ...] = ("emotion", "gender")
    weights = {
        (arch, task): getattr(options, f"weights_{arch.split('_')[0]}_{task}")
        for arch in ("mini_xception", "sequential_cnn")
        for task in tasks
    }
    study = Study(
        trainings, weights, data_dir=options.data_dir, dataset_gender=options.dataset_gender, quick=options.quick
    )
    chosen = [name for name in CLAIMS if name in (options.only or CLAIMS)]
    keys = {name: _key(name, study) for name in chosen}  # all weights are there before work starts
    with _quick_compilation(options.quick), _whole_steps():
        for name in tqdm(chosen, "claims", unit="claim"):
            record = Record.load(records, name)
            if record is None or record.key != keys[name]:
                record = _run(name, study, keys[name], _command(name, options))
                record.save(records)
            tqdm.write(f"{name}: {record.answer}")
            for verdict in record.result.verdicts:
                tqdm.write(f"  {verdict}")
    # Claims that other calls have finished are in the page as well.
    finished = [found for name in CLAIMS if (found := Record.load(records, name)) and found.quick == options.quick]
    file = options.output / "report.html"
    report.write(file, finished)
    print(f"{file}: {len(finished)} of {len(CLAIMS)} claims")


def _run(name: str, study: Study, key: str, command: str) -> Record:
    from experiments.paper.record import Record

    module = _module(name)
    start = time.perf_counter()
    try:
        result = module.run(study, module.QUICK if study.quick else module.FULL)
    except FaceflaxError as error:
        raise error.renamed(f"{name}: {error.field}") from None
    seconds = time.perf_counter() - start
    return Record(key, name, module.TITLE, module.CLAIM, command, study.quick, seconds, result)


def _key(name: str, study: Study) -> str:
    from experiments.paper.study import digest

    module = _module(name)
    config = dataclasses.asdict(module.QUICK if study.quick else module.FULL)
    hashes = [study.weights_hash(arch, task) for arch, task in module.NEEDS]
    # A claim that is computed otherwise than before is computed again; its trainings are still there.
    sources = [inspect.getsource(_module(source)) for source in (name, "study", "intervals", "eyes")]
    return digest(name, config, hashes, sources, study.quick, study.dataset_gender)


def _module(name: str) -> Any:
    return importlib.import_module(f"experiments.paper.{name}")


def _command(name: str, options: Options) -> str:
    """What makes one claim again, for a shell; only options that differ from their defaults."""
    words = ["python", "-m", "experiments.paper", "--only", name]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in ("only", "output", "data_dir") or value == field.default:
            continue
        option = "--" + field.name.replace("_", "-")
        words += [option] if value is True else [option, str(value)]
    return shlex.join(words)


@contextmanager
def _quick_compilation(quick: bool) -> Iterator[None]:
    """While it lasts, a quick run, which computes little and compiles much, compiles without optimisation."""
    if not quick:
        yield
        return
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@contextmanager
def _whole_steps() -> Iterator[None]:
    """Lets Ctrl-C wait for what is being computed: an interpreter that ends under it would crash."""
    import jax

    try:
        yield
    except KeyboardInterrupt:
        jax.block_until_ready(jax.live_arrays())
        raise


if __name__ == "__main__":
    run(main, Options)
