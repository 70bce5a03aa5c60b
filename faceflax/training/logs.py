"""What a run writes for people: metrics.csv, TensorBoard events, and a plot of the curves."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from faceflax import files

Epoch = dict[str, float]
COLUMNS = (
    "epoch",
    "learning_rate",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "images_per_second",
)


def write_csv(file: Path, history: list[Epoch]) -> None:
    """Writes one row an epoch; the old file is replaced only by a whole new one."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(history)
    files.write(file, text.getvalue())


def read_csv(file: Path) -> list[Epoch]:
    """Reads what :func:`write_csv` wrote."""
    with file.open(newline="") as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def write_curves(file: Path, history: list[Epoch], title: str) -> None:
    """Draws loss and accuracy over the epochs, training and validation, with the best epoch marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    epochs = [row["epoch"] for row in history]
    best = max(history, key=lambda row: row["validation_accuracy"])
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split in ("train", "validation"):
            axes.plot(epochs, [row[f"{split}_{metric}"] for row in history], label=split, marker=".")
        axes.axvline(best["epoch"], color="grey", linestyle=":", label=f"best epoch ({best['epoch']:.0f})")
        axes.set(xlabel="epoch", ylabel=metric)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    with files.replacing(file) as temporary:
        figure.savefig(temporary, dpi=120)


class TensorBoard:
    """TensorBoard event files of a run; epochs that a resumed run repeats are not written twice."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write(self, row: Epoch) -> None:
        """Writes one epoch's metrics."""
        for name in COLUMNS[1:]:
            self._writer.add_scalar(name, row[name], int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()
