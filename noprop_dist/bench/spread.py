"""Medians of turns, with the least and the most of them, as columns of a table."""

import statistics
from collections.abc import Sequence
from typing import Any


def spread(side: str, rates: Sequence[float]) -> dict[str, Any]:
    """A row of a table: median, least and most of a side's turns."""
    return {"side": side, "median": statistics.median(rates), "least": min(rates), "most": max(rates), "turns": rates}


def rate_columns(rates: Sequence[float]) -> dict[str, Any]:
    """What every table of rates says of a side's turns."""
    return {
        "block_steps_per_second": statistics.median(rates),
        "least": min(rates),
        "most": max(rates),
        "turns": rates,
    }
