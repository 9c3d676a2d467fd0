"""A scenario as a file that a test can hold, and as text for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from noprop_dist.errors import UserError, why
from noprop_dist.files import JsonObject, from_json, local_path, open_file, parse_json
from noprop_dist.simulation.campaign import outcome_of
from noprop_dist.simulation.faults import FAULT, KINDS
from noprop_dist.simulation.scenario import PATIENCES, Scenario, plan_of
from noprop_dist.simulation.simulation import Outcome


@dataclass(frozen=True)
class Schedule:
    """A scenario with a name.

    Attributes:
        name: of what it showed, in a few words.
        wrong: a sentence of what was wrong; empty if nothing is known to be.
        scenario: that is run.
    """

    name: str
    wrong: str
    scenario: Scenario

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


def read_schedule(file: Path) -> Schedule:
    """Read a schedule from JSON.

    Raises:
        UserError: it cannot be read, or is no schedule; names the file and what is wrong.
    """
    try:
        with open_file(local_path(file), allow_pipe=True) as opened:
            schedule = from_json(Schedule, parse_json(opened.read(), JsonObject))
        for number, fault in enumerate(schedule.scenario.faults):
            if fault.kind not in KINDS:
                raise ValueError(f"scenario.faults.{number}.kind: there is no kind of fault {fault.kind!r}")
        for settings in (schedule.scenario.settings, *schedule.scenario.again):
            plan_of(settings)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {why(error)}") from error
    return schedule


def course_of(scenario: Scenario) -> tuple[list[str], Outcome]:
    """What happens in a run, a line for each thing, and what becomes of it."""
    lines: list[str] = []
    outcome = outcome_of(scenario, lines.append)
    return [*lines, *(f"violation: {each}" for each in outcome.violations)], outcome


def told(scenario: Scenario) -> list[str]:
    """A scenario for people: what is run and where, and at which second what happens to whom."""
    nodes = " and ".join(f"{cpus} cores" + (f", {gpus} GPUs" if gpus else "") for cpus, gpus in scenario.nodes)
    lines, _ = course_of(scenario)
    return [
        f"seed {scenario.seed}, stored on a {scenario.store}, on nodes of {nodes}",
        f"  train: {_shown(scenario.settings)}",
        *(f"  resume: {_shown(again)}" for again in scenario.again),
        *(line.replace(FAULT, "") for line in lines if FAULT in line),
    ]


def _shown(settings: Sequence[str]) -> str:
    """Settings without those that all simulated runs have."""
    return " ".join(each if " " not in each else f"'{each}'" for each in settings if each not in PATIENCES)
