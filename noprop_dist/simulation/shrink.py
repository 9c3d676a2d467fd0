"""From a run in which something was wrong to the smallest one in which the same is wrong."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from noprop_dist.errors import UserError
from noprop_dist.simulation.campaign import Failure, outcome_of
from noprop_dist.simulation.scenario import Fault, Scenario

TRIES = 300
"""Runs that are tried at most."""
PLAINEST = {
    "blocks.count": ("1", "2", "3", "5"),
    "embedding": ("{kind: onehot}",),
    "engine.blocks_at_once": ("1",),
    "engine.blocks_per_worker": ("null",),
    "engine.max_failures": ("-1",),
    "engine.prefetch": ("1",),
    "engine.workers": ("1", "2"),
    "evaluation.samples": ("0",),
    "training.early_stopping": ("null",),
    "training.max_steps": ("8", "16", "40", "80"),
    "training.replicas_per_block": ("1",),
}
"""Values of settings that make a run easier to understand, the plainest first."""


@dataclass(frozen=True)
class Shrunk:
    """What is left of a failure.

    Attributes:
        failure: the smallest run that was found.
        tries: runs that it took.
        is_minimal: whether nothing more can be left out; False if the tries were used up.
    """

    failure: Failure
    tries: int
    is_minimal: bool


def kind_of(violation: str) -> str:
    """A violation without its numbers and settings: two runs with the same one have the same thing wrong."""
    return re.sub(r"\d+(\.\d+)?", "#", re.sub(r"\S+=\S+", "=", re.sub(r" \(at [^()]*\)$", "", violation)))


def first_violation(scenario: Scenario) -> str | None:
    """Simulate a scenario; the first thing that is wrong, or None."""
    violations = outcome_of(scenario).violations
    return violations[0] if violations else None


def shrink(
    failure: Failure,
    tries: int = TRIES,
    violation_of: Callable[[Scenario], str | None] = first_violation,
    stopped: Callable[[], bool] = lambda: False,
) -> Shrunk:
    """Leave out of a failing run what can be left out, as long as the same is wrong.

    Args:
        failure: to shrink.
        tries: runs at most.
        violation_of: runs a scenario; says what is wrong, or None.
        stopped: whether to end with what is found so far.
    """

    def tried(scenario: Scenario) -> str | None:
        if stopped():
            raise _UsedUpError
        return violation_of(scenario)

    search = _Search(failure, tries, tried)
    try:
        before = None
        while search.best != before:
            before = search.best
            search.fewer_faults()
            search.plainer()
    except _UsedUpError:
        return Shrunk(search.best, tries, is_minimal=False)
    return Shrunk(search.best, search.tries, is_minimal=True)


class _UsedUpError(Exception):
    """No more runs may be tried."""


class _Search:
    """The smallest failing scenario so far, and the attempts at a smaller one."""

    def __init__(self, failure: Failure, most: int, violation_of: Callable[[Scenario], str | None]) -> None:
        self.best = failure
        self.tries = 0
        self._kind = kind_of(failure.violation)
        self._most = most
        self._violation_of = violation_of
        self._tried: set[Scenario] = {failure.scenario}

    def fails(self, scenario: Scenario) -> bool:
        """Keep a scenario if it fails in the same way; return whether it does."""
        if scenario in self._tried:
            return False
        if self.tries == self._most:
            raise _UsedUpError
        self._tried.add(scenario)
        self.tries += 1
        try:
            violation = self._violation_of(scenario)
        except UserError:  # settings that do not go together
            return False
        if violation is None or kind_of(violation) != self._kind:
            return False
        self.best = Failure(scenario, violation)
        return True

    def fewer_faults(self) -> None:
        """Delta debugging (ddmin): leave out ever smaller parts, at last single faults."""
        parts = 2
        while faults := self.best.scenario.faults:
            size = -(-len(faults) // parts)
            rests = ((*faults[:at], *faults[at + size :]) for at in range(0, len(faults), size))
            if any(self._fails_with(rest) for rest in rests):
                parts = max(parts - 1, 2)
            elif size == 1:
                return
            else:
                parts = min(2 * parts, len(faults))

    def _fails_with(self, faults: Sequence[Fault]) -> bool:
        return self.fails(self.best.scenario.with_faults(faults))

    def plainer(self) -> None:
        """Take each plainer value that still fails."""
        for change in CHANGES:
            for scenario in change(self.best.scenario):
                if self.fails(scenario):
                    break


def _fewer_resumes(scenario: Scenario) -> Iterator[Scenario]:
    yield replace(scenario, again=())


def _plainer_store(scenario: Scenario) -> Iterator[Scenario]:
    yield replace(scenario, store="disk")


def _plainer_pace(scenario: Scenario) -> Iterator[Scenario]:
    yield replace(scenario, turn_seconds=0.01)


def _fewer_nodes(scenario: Scenario) -> Iterator[Scenario]:
    for count in range(1, len(scenario.nodes)):
        yield replace(scenario, nodes=scenario.nodes[:count])


def _plainer_setting(key: str) -> Callable[[Scenario], Iterator[Scenario]]:
    def plainer(scenario: Scenario) -> Iterator[Scenario]:
        now = next((each for each in scenario.settings if each.startswith(f"{key}=")), None)
        for value in PLAINEST[key] if now is not None else ():
            if f"{key}={value}" == now:
                return  # those that follow are less plain
            yield replace(
                scenario,
                settings=_with(scenario.settings, key, value),
                again=tuple(_with(settings, key, value) for settings in scenario.again),
            )

    return plainer


def _with(settings: Sequence[str], key: str, value: str) -> tuple[str, ...]:
    return tuple(f"{key}={value}" if each.startswith(f"{key}=") else each for each in settings)


CHANGES = (
    _fewer_resumes,
    *(_plainer_setting(key) for key in PLAINEST),
    _plainer_store,
    _plainer_pace,
    _fewer_nodes,
)
