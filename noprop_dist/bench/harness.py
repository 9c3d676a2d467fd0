"""How every benchmark measures: all sides in one run, in turns, so that a disturbance of the machine hits all of them.

A benchmark's table is a list of frozen dataclasses, one a row. A field that is a `Spread` becomes several columns.
"""

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

Side = TypeVar("Side", bound=Hashable)
Figure = TypeVar("Figure")
Say = Callable[[str], None]
"""Is told what is being measured."""
Cell = str | float | bool | None | Sequence[float | None]
"""Of a table."""


@dataclass(frozen=True)
class Spread:
    """One figure of every turn of a side."""

    turns: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.turns)

    @property
    def least(self) -> float:
        return min(self.turns)

    @property
    def most(self) -> float:
        return max(self.turns)


@dataclass(frozen=True)
class SideRow:
    """A row of a table that compares sides by one figure."""

    side: str
    median: Spread


def alternate(
    sides: Mapping[Side, Callable[[int], Figure]],
    turns: int,
    say: Say,
    told: Callable[[Figure], str],
    named: Callable[[Side], str] = str,
    warm_ups: int = 0,
) -> dict[Side, list[Figure]]:
    """Measure every side once in each turn.

    Args:
        sides: what measures each of them. It is called with the number of the turn, from 0, warm-ups included.
        turns: that count.
        say: told every figure.
        told: a figure in words.
        named: a side in words.
        warm_ups: turns before those that count. Their figures are dropped.

    Returns:
        The figures of each side, one for each turn that counts.
    """
    figures: dict[Side, list[Figure]] = {side: [] for side in sides}
    for turn in range(warm_ups + turns):
        number = f"turn {turn - warm_ups + 1} of {turns}" if turn >= warm_ups else "warm-up"
        for side, measure in sides.items():
            figure = measure(turn)
            say(f"{number}, {named(side)}: {told(figure)}")
            if turn >= warm_ups:
                figures[side].append(figure)
    return figures


def rate_in_words(rate: float) -> str:
    return f"{rate:,.1f} block-steps/s"


def columns(row: Any) -> dict[str, Cell]:
    """The columns of a row, which is a dataclass.

    A `Spread` gives its median under the name of the field, and `least`, `most` and `turns` after it.
    """
    cells: dict[str, Cell] = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, Spread):
            cells |= {field.name: value.median, "least": value.least, "most": value.most, "turns": value.turns}
        else:
            cells[field.name] = value
    return cells
