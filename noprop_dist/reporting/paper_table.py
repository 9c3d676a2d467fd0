"""The paper's table beside ours."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from noprop_dist.reporting.tables import Mean, markdown_table

PAPER = {
    "mnist": {
        ("backprop", "onehot"): "99.46 ± 0.06",
        ("backprop", "prototype"): "99.44 ± 0.05",
        ("noprop", "onehot"): "99.47 ± 0.05",
        ("noprop", "learned"): "99.49 ± 0.04",
        ("noprop", "prototype"): "99.54 ± 0.04",
    },
    "cifar10": {
        ("backprop", "onehot"): "79.92 ± 0.14",
        ("backprop", "prototype"): "79.58 ± 0.44",
        ("noprop", "onehot"): "79.25 ± 0.28",
        ("noprop", "learned"): "79.12 ± 0.37",
        ("noprop", "prototype"): "80.54 ± 0.20",
    },
    "cifar100": {
        ("backprop", "onehot"): "45.85 ± 2.07",
        ("backprop", "prototype"): "47.80 ± 0.19",
        ("noprop", "onehot"): "45.93 ± 0.46",
        ("noprop", "learned"): "45.19 ± 0.22",
        ("noprop", "prototype"): "46.06 ± 0.25",
    },
}
"""Test accuracy in % of method and embedding (arXiv 2503.24322, Table 1): MNIST after 100 epochs, CIFAR after 150."""
NAMES = {
    "backprop": "back-propagation",
    "noprop": "NoProp-DT",
    "onehot": "one-hot",
    "learned": "d = 20",
    "prototype": "prototype",
}
COLUMNS = ("", "seeds", "epochs", "stochastic (%)", "mean (%)", "paper (%)", "training (s)", "peak memory (MiB)")


@dataclass(frozen=True)
class Cell:
    """What was measured of one run on the whole test set.

    Attributes:
        seed: of the run.
        epochs: that were trained.
        stochastic: accuracy of each single pass of the stochastic sampler, fractions.
        mean: accuracy of the mean sampler, a fraction.
        training_seconds: by the clock, while any stage was at work.
        peak_memory_bytes: of the process that took most.
    """

    seed: int
    epochs: float
    stochastic: tuple[float, ...]
    mean: float
    training_seconds: float
    peak_memory_bytes: int


def table_rows(data: str, cells: Mapping[tuple[str, str], Sequence[Cell]]) -> list[tuple[str, ...]]:
    """A row for each method and embedding of the paper; its cells are empty if nothing was measured."""
    rows: list[tuple[str, ...]] = []
    for (method, embedding), paper in PAPER[data].items():
        measured = cells.get((method, embedding), ())
        name = f"{NAMES[method]}, {NAMES[embedding]}"
        rows.append((name, *(_figures(measured) if measured else ("",) * 4), paper, *_costs(measured)))
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The table for a document."""
    return markdown_table(COLUMNS, rows)


def _figures(cells: Sequence[Cell]) -> tuple[str, str, str, str]:
    passes = [100 * share for cell in cells for share in cell.stochastic]
    epochs = sorted({f"{cell.epochs:.3g}" for cell in cells})
    means = [100 * cell.mean for cell in cells]
    return str(len(cells)), "/".join(epochs), Mean.of(passes).text(".2f"), Mean.of(means).text(".2f")


def _costs(cells: Sequence[Cell]) -> tuple[str, str]:
    if not cells:
        return "", ""
    seconds = statistics.median(cell.training_seconds for cell in cells)
    return f"{seconds:,.0f}", f"{max(cell.peak_memory_bytes for cell in cells) / 2**20:,.0f}"
