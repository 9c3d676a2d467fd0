"""Many simulated runs, one after the other."""

import gc
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from noprop_dist.simulation.scenario import Scenario
from noprop_dist.simulation.simulation import Outcome, Simulation

SAY_SECONDS = 10.0
"""From one line of progress to the next."""
MOST_TURNS = 400_000
"""Of one run; twenty times what the longest takes. A run that does more goes round in circles."""
COLLECTED_EVERY = 50
"""Runs from one garbage collection to the next."""


@dataclass(frozen=True)
class Failure:
    """A run in which something was wrong; `violation` is the first thing."""

    scenario: Scenario
    violation: str


@dataclass
class Totals:
    """What became of many runs.

    Attributes:
        runs: that were simulated.
        failures: those in which something was wrong.
        struck: faults that hit something, by kind.
        runs_struck: runs that were hit, by kind of fault.
        drivers: of all runs.
        coordinators: likewise.
        turns: of the worlds.
        virtual_seconds: of all runs together.
        seconds: that it took here.
    """

    runs: int = 0
    failures: list[Failure] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    runs_struck: Counter[str] = field(default_factory=Counter)
    drivers: int = 0
    coordinators: int = 0
    turns: int = 0
    virtual_seconds: float = 0.0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one more run."""
        self.runs += 1
        self.failures += [Failure(outcome.scenario, violation) for violation in outcome.violations[:1]]
        self.struck.update(outcome.struck)
        self.runs_struck.update(outcome.struck.keys())
        self.drivers += outcome.lives
        self.coordinators += outcome.coordinators
        self.turns += outcome.turns
        self.virtual_seconds += outcome.seconds

    @property
    def runs_per_hour(self) -> float:
        return 3600 * self.runs / self.seconds if self.seconds else 0.0

    def told(self) -> str:
        return (
            f"{self.runs:,} runs, {self.struck.total():,} faults, {self.runs_per_hour:,.0f} runs/hour, "
            f"{len(self.failures)} failed"
        )


def outcome_of(scenario: Scenario, trace: Callable[[str], None] | None = None) -> Outcome:
    """Simulate a scenario. What it raises is one more violation, as is a run that goes round in circles.

    Args:
        scenario: to simulate.
        trace: told each thing that happens.
    """
    simulation = Simulation(scenario)
    simulation.trace = trace
    endless = f"the run took {MOST_TURNS} turns"
    simulation.world.before_turn[MOST_TURNS] = [lambda: simulation.violate(endless)]
    try:
        simulation.run()
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, {last.name}"
        simulation.outcome.violations.append(f"{type(error).__name__}: {error} ({where})")
    finally:
        simulation.world.close()
    return simulation.outcome


def campaign(
    scenarios: Iterable[Scenario],
    totals: Totals,
    say: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
    failed: Callable[[Failure], None] = lambda _: None,
) -> None:
    """Simulate scenarios one after the other.

    Args:
        scenarios: to simulate.
        totals: that each run is added to.
        say: told now and then how far it is.
        stopped: whether to end after the run that is under way.
        failed: told of each run in which something was wrong.
    """
    before, began = totals.seconds, time.monotonic()
    told = began
    with _few_collections() as collect:
        for scenario in scenarios:
            if stopped():
                break
            known = len(totals.failures)
            totals.add(outcome_of(scenario))
            collect()
            now = time.monotonic()
            totals.seconds = before + now - began
            for failure in totals.failures[known:]:
                failed(failure)
            if now - told >= SAY_SECONDS:
                told = now
                say(totals.told())


@contextmanager
def _few_collections() -> Iterator[Callable[[], None]]:
    """Turn garbage collection off within a `with`; what it gives collects once in `COLLECTED_EVERY` calls."""
    count, was_on = 0, gc.isenabled()

    def collect() -> None:
        nonlocal count
        count += 1
        if count % COLLECTED_EVERY == 0:
            gc.collect()

    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield collect
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
