"""Simulated runs of the whole engine: what struck them, what was wrong, and how each failure is repeated."""

import json
import shlex
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from noprop_dist.bench.harness import Say
from noprop_dist.simulation.campaign import Failure, Totals, campaign
from noprop_dist.simulation.exhaustive import SHORT, every_death
from noprop_dist.simulation.faults import KINDS, WEIGHTS
from noprop_dist.simulation.scenario import Scenario, Size, draw_scenario
from noprop_dist.simulation.schedule import Schedule, course_of, read_schedule, told
from noprop_dist.simulation.shrink import kind_of, shrink

MOST_SHRUNK = 5
"""Kinds of failure of which the first is shrunk. That takes 300 runs each, at most."""
COMMAND = "noprop-dist bench simulate"


@dataclass(frozen=True)
class StruckRow:
    """How often faults of one kind hit something, and how many runs they hit."""

    fault: str
    struck: int
    runs: int


@dataclass(frozen=True)
class Finding:
    """A failure, and how to see it again.

    Attributes:
        violation: what was wrong.
        command: that repeats it; None if only the schedule does.
        schedule: the smallest run with the same wrong; None if it was not looked for.
        told: the schedule for people.
    """

    violation: str
    command: str | None
    schedule: Schedule | None
    told: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people."""
        lines = [self.violation, *(() if self.command is None else (f"  repeat it with: {self.command}",))]
        if self.schedule is None:
            return lines
        return [
            *lines,
            *(f"  {each}" for each in self.told),
            f"  as a file for --schedule: {json.dumps(asdict(self.schedule))}",
        ]


@dataclass(frozen=True)
class Simulated:
    """What became of a number of simulated runs."""

    totals: Totals
    findings: tuple[Finding, ...]

    def rows(self) -> list[StruckRow]:
        return [StruckRow(kind, self.totals.struck[kind], self.totals.runs_struck[kind]) for kind in KINDS]

    def line(self) -> str:
        totals = self.totals
        processes = f"{totals.drivers:,} drivers, {totals.coordinators:,} coordinators"
        return f"{totals.told()}; {processes}, {totals.virtual_seconds / 3600:,.1f} virtual hours"

    def figures(self) -> dict[str, Any]:
        """What a table has no column for."""
        counted = ("runs", "seconds", "runs_per_hour", "drivers", "coordinators", "turns", "virtual_seconds")
        return {name: getattr(self.totals, name) for name in counted} | {
            "failures": [asdict(finding) for finding in self.findings]
        }


@dataclass(frozen=True)
class Wanted:
    """Which runs are simulated.

    Attributes:
        runs: random ones, of seeds that follow each other.
        seed: of the first.
        size: of each.
        exhaustive: short runs in which each process is killed at every moment, in place of random ones.
        schedule: file of the one run that is simulated in place of random ones.
    """

    runs: int = 1
    seed: int = 0
    size: Size = field(default_factory=Size)
    exhaustive: bool = False
    schedule: Path | None = None

    def scenarios(self) -> Iterable[Scenario]:
        """The runs.

        Raises:
            UserError: the schedule cannot be read.
        """
        if self.schedule is not None:
            return [read_schedule(self.schedule).scenario]
        if self.exhaustive:
            return (scenario for short in SHORT for scenario in every_death(short))
        return (draw_scenario(self.seed + number, self.size, WEIGHTS) for number in range(self.runs))

    def command(self, scenario: Scenario) -> str | None:
        """The command that repeats one of the runs, if there is one without a schedule."""
        if self.schedule is not None:
            return f"{COMMAND} --schedule {shlex.quote(str(self.schedule))}"
        if self.exhaustive:
            return None
        usual, size = Size(), self.size
        given = {"blocks": size.blocks, "rounds": size.rounds, "faults": size.faults}
        further = [f" --{name} {value}" for name, value in given.items() if value != getattr(usual, name)]
        return f"{COMMAND} --runs 1 --seed {scenario.seed}{''.join(further)}"


def bench_simulate(wanted: Wanted, say: Say, stopped: Callable[[], bool]) -> Simulated:
    """Simulate runs; shrink the first failure of each kind.

    Args:
        wanted: which runs.
        say: told how far it is, and of each failure.
        stopped: whether to end after the run that is under way.

    Raises:
        UserError: the schedule cannot be read.
    """
    totals = Totals()

    def failed(failure: Failure) -> None:
        command = wanted.command(failure.scenario)
        say(f"{failure.violation}{'' if command is None else f'; repeat it with: {command}'}")

    scenarios = list(wanted.scenarios()) if wanted.exhaustive or wanted.schedule else wanted.scenarios()
    if isinstance(scenarios, list) and len(scenarios) > 1:
        say(f"{len(scenarios):,} runs: each process at each moment of {len(SHORT)} short ones")
    campaign(scenarios, totals, say, stopped, failed)
    if (
        wanted.schedule
        and isinstance(scenarios, list)
        and (missed := len(scenarios[0].faults) - totals.struck.total()) > 0
    ):
        say(f"{missed} of {len(scenarios[0].faults)} faults found nothing to hit")
    firsts: dict[str, Failure] = {}
    for failure in totals.failures:
        firsts.setdefault(kind_of(failure.violation), failure)
    shrunk = list(firsts.values())[:MOST_SHRUNK]
    findings = (_finding(each, wanted, each in shrunk and not stopped(), say, stopped) for each in totals.failures)
    return Simulated(totals, tuple(findings))


def _finding(failure: Failure, wanted: Wanted, shrinks: bool, say: Say, stopped: Callable[[], bool]) -> Finding:
    command = wanted.command(failure.scenario)
    if not shrinks:
        return Finding(failure.violation, command, None)
    shrunk = shrink(failure, stopped=stopped)
    limit = "" if shrunk.is_minimal else "; it may be smaller still"
    say(f"shrunk to {len(shrunk.failure.scenario.faults)} faults in {shrunk.tries} runs{limit}")
    schedule = Schedule(kind_of(failure.violation), shrunk.failure.violation, shrunk.failure.scenario)
    return Finding(failure.violation, command, schedule, tuple(told(schedule.scenario)))


def show_course(wanted: Wanted, show: Callable[[str], None]) -> bool:
    """Show what happens in the first of the runs, and when; return whether all was right."""
    lines, outcome = course_of(next(iter(wanted.scenarios())))
    for line in lines:
        show(line)
    return not outcome.violations
