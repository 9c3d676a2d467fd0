"""One kind of fault."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation

NOTHING = -1.0
"""Of a fault that found nothing to hit."""


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: for people and schedules.
        weight: how often it is drawn, relative to the others.
        strike: does it; returns for how many seconds the world is unkind, or `NOTHING`.
    """

    name: str
    weight: float
    strike: Callable[["Simulation", random.Random], float]
