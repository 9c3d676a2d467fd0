"""Means and tables as text."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

LARGEST = 1e150
"""Of a larger figure the square is none any more."""
SPECIAL = re.compile(r"[\\`*_\[\]<>|]")
"""What Markdown would take for more than a character."""


@dataclass(frozen=True)
class Mean:
    """The mean of some figures.

    Attributes:
        value: the mean; not a number where a figure is none.
        error: its standard error; None for a single figure.
        count: of the figures.
    """

    value: float
    error: float | None
    count: int

    @staticmethod
    def of(figures: Sequence[float]) -> "Mean":
        """The mean of at least one figure."""
        if len(figures) == 1:
            return Mean(figures[0], None, 1)
        if not all(abs(each) < LARGEST for each in figures):
            return Mean(nan, None, len(figures))
        error = statistics.stdev(figures) / sqrt(len(figures))
        return Mean(statistics.fmean(figures), error, len(figures))

    def text(self, form: str, scale: float = 1) -> str:
        """`98.00 ± 0.41` in this format, times `scale`."""
        value = format(scale * self.value, form)
        return value if self.error is None else f"{value} ± {format(scale * self.error, form)}"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a document. Cells are text, whatever is in them."""
    heading, *lines = (" | ".join(map(_escaped, row)) for row in (headings, *rows))
    return "".join(f"| {line} |\n" for line in (heading, " | ".join(["---"] * len(headings)), *lines))


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\g<0>", text)
