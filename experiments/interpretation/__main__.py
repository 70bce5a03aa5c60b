"""Makes docs/interpret/matrix.md: ``python -m experiments.interpretation``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faceflax import files
from faceflax.cli import run
from faceflax.errors import FaceflaxError, unknown
from faceflax.files import writable_file
from interpret.benchmark import command, refusal

if TYPE_CHECKING:
    import numpy as np

    from experiments.interpretation.networks import Made

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "<!-- Made by `python -m experiments.interpretation`; what is written here by hand is lost. -->"
AGREES = 1e-5
"""Relative error up to which ours in float32 and a peer's in float64 are the same."""


@dataclass(frozen=True)
class Options:
    """Run every method on every network, compare with Captum's and Zennit's answers, and write the matrix.

    Peers and frameworks that are not installed are named in their cells.
    """

    networks: tuple[str, ...] = ()
    """The networks; all if not given."""
    methods: tuple[str, ...] = ()
    """The methods; all if not given."""
    output: Path = ROOT / "docs/interpret/matrix.md"
    """The page."""


@dataclass(frozen=True)
class Cell:
    """What became of a method on a network.

    Attributes:
        ran: whether it did.
        why: why it did not run, or was not compared though a peer has the method.
        error: how far the peer's answer is, relatively, where it was compared.
    """

    ran: bool
    why: str = ""
    error: float | None = None

    @property
    def agrees(self) -> bool:
        """Whether it is the peer's answer, up to rounding."""
        return self.error is not None and self.error <= AGREES

    def text(self, note: str) -> str:
        """What stands in the matrix."""
        if not self.ran:
            return f"\N{EN DASH} {self.why}"
        if self.error is None:
            return f"ran; {self.why}" if self.why else "ran"
        return f"**{self.error:.0e}**" if self.agrees else f"{self.error:.0e} {note}"


def main(options: Options) -> None:
    """Checks the options, fills the matrix and writes it."""
    from experiments.interpretation.networks import NETWORKS
    from interpret.methods import METHODS

    for field, names, known in (("networks", options.networks, NETWORKS), ("methods", options.methods, METHODS)):
        for name in names:
            if name not in known:
                raise unknown(field, name, known)
    output = writable_file("output", options.output)
    matrix = cells(options.methods or tuple(METHODS), options.networks or tuple(NETWORKS))
    files.write(output, page(matrix, command("experiments.interpretation", options)))
    print(f"matrix: {output}")


def cells(methods: tuple[str, ...], names: tuple[str, ...]) -> dict[str, dict[str, Cell]]:
    """Fills the matrix: for each method, for each network, its cell."""
    import jax
    from tqdm import tqdm

    from experiments.interpretation.networks import NETWORKS

    jax.config.update("jax_disable_most_optimizations", True)  # they run once and compile long
    matrix: dict[str, dict[str, Cell]] = {method: {} for method in methods}
    with tqdm(total=len(methods) * len(names), unit=" cells") as bar:
        for name in names:
            bar.set_description(name)
            try:
                made = NETWORKS[name]()
            except ImportError as error:
                absent = Cell(False, f"{error.name} is not installed")
                matrix = {method: row | {name: absent} for method, row in matrix.items()}
                bar.update(len(methods))
                continue
            for method in methods:
                matrix[method][name] = _cell(method, name, made)
                bar.update()
            jax.clear_caches()
    return matrix


def _cell(method: str, name: str, made: Made) -> Cell:
    import numpy as np

    import interpret
    from experiments.interpretation.networks import IMAGES, QUICK
    from interpret.methods import METHODS

    try:
        model, variables = interpret.wrap(*made.arguments, **made.options)
        ours = METHODS[method](model, variables, IMAGES, 0, layer=made.layer, **QUICK.get(method, {}))
    except FaceflaxError as error:
        return Cell(False, refusal(error))
    return _compared(method, name, np.asarray(ours))


def _compared(method: str, name: str, ours: np.ndarray) -> Cell:
    from experiments.interpretation import peers
    from experiments.interpretation.networks import IMAGES

    if method not in peers.PEERS or (method in peers.LAYERED and name in peers.TOKENS):
        return Cell(True)
    peer = peers.PEERS[method].peer
    if peer in peers.missing():
        return Cell(True, f"{peer} is not installed")
    return Cell(True, error=peers.relative_error(ours, peers.answer(method, name, IMAGES, 0)))


def page(matrix: Mapping[str, Mapping[str, Cell]], made_with: str) -> str:
    """The page, as Markdown.

    Args:
        matrix: for each method, for each network, its cell.
        made_with: the command that fills it so.
    """
    from experiments.interpretation.peers import difference

    names = list(next(iter(matrix.values())))
    pairs = {(method, name): cell for method, row in matrix.items() for name, cell in row.items()}
    apart = [key for key, cell in pairs.items() if cell.error is not None and not cell.agrees]
    notes = list(dict.fromkeys(difference(*key) for key in apart))
    numbers = {key: f"[{notes.index(difference(*key)) + 1}]" for key in apart}
    lines = [["method", *names], ["---"] * (len(names) + 1)]
    for method in matrix:
        row = [pairs[method, name].text(numbers.get((method, name), "")) for name in names]
        lines.append([f"`{method}`", *row])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    foot = "\n".join(f"{i}. {note}" for i, note in enumerate(notes, 1))
    ran, compared, agree = (
        sum(held) for held in zip(*((c.ran, c.error is not None, c.agrees) for c in pairs.values()), strict=True)
    )
    return f"""# Methods and networks

{BEGIN}

```
{made_with}
```

runs every method on these networks of `experiments/interpretation/networks.py`, each through `interpret.wrap`, and
compares it with the answer of Captum (gradients, integrated gradients, DeepLIFT, Grad-CAM, occlusion, ablation) or
Zennit (relevance propagation) on a PyTorch twin of the same weights, in float64.

{len(pairs)} pairs: {ran} ran, {len(pairs) - ran} were refused. {compared} were compared; {agree} of them agree to
{AGREES:.0e}.

* **bold number**: ran; the relative error `norm(ours - peer's) / norm(peer's)`, ours in float32
* number with a note: ran, and the peer answers otherwise, as the note says
* ran: ran; no peer has the method, or only with random numbers of its own
* \N{EN DASH}: refused, and why

{table}

{foot}
"""


if __name__ == "__main__":
    run(main, Options)
