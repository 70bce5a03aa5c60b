"""Evaluates weights on a split: ``python scripts/evaluate.py --weights mini_xception-fer2013 --dataset fer2013``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from faceflax import commands
from faceflax.errors import FaceflaxError

PICTURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Options:
    """Print accuracy and per-class precision, recall and F1 on a split, and draw the normalised confusion matrix."""

    weights: str
    """Shipped name (faceflax.list_weights()) or path of a .safetensors file."""
    dataset: str
    """Dataset, prepared with scripts/prepare_data.py; synthetic needs no preparation."""
    split: str = "test"
    """train, validation or test; for fer2013 also PublicTest (validation) and PrivateTest (test)."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    flip: bool = False
    """Average the logits of each image and of its mirror image."""
    output: Path = Path("out/confusion.png")
    """Picture of the confusion matrix to write."""


def main(options: Options) -> None:
    """Loads weights and split, evaluates, prints and draws."""
    if options.output.suffix not in PICTURES:
        raise FaceflaxError(f"--output: {str(options.output)!r} is not a picture; end it in {' or '.join(PICTURES)}")
    commands.writable_file("--output", options.output)

    from faceflax import data, pretrained
    from faceflax.training import evaluation

    model, variables = pretrained.load(options.weights)
    info = pretrained.weights_info(options.weights)
    examples = data.load(options.dataset, options.split, image_size=info.image_size, data_dir=options.data_dir)
    if tuple(examples.names) != info.labels:
        raise FaceflaxError(
            f"--dataset: {options.dataset} has the classes {', '.join(examples.names)}, but --weights "
            f"{options.weights} has {', '.join(info.labels)}; choose a dataset with the weights' classes"
        )
    logits = evaluation.predict_logits(model, variables, examples.images, flip=options.flip)
    result = evaluation.evaluate(logits, examples.labels, info.labels)

    what = f"{options.weights} on {options.dataset} {options.split}{' with flip averaging' if options.flip else ''}"
    print(f"{what}: accuracy {result.accuracy:.2%} of {len(logits):,} images\n\n{result.table()}\n")
    title = f"{what}\naccuracy {result.accuracy:.2%}, n = {len(logits):,}"
    evaluation.confusion_figure(result, title).savefig(options.output, dpi=150, bbox_inches="tight")
    print(f"confusion matrix: {options.output}")


if __name__ == "__main__":
    commands.run(main, Options)
