"""A scenario as a file that a test can hold, and as text for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from noprop_dist.errors import UserError, why
from noprop_dist.files import JsonObject, from_json, local_path, open_file, parse_json
from noprop_dist.simulation.campaign import outcome_of
from noprop_dist.simulation.faults import FAULT, KINDS
from noprop_dist.simulation.scenario import PATIENCES, STRICT, Fault, Scenario, plan_of
from noprop_dist.simulation.simulation import Outcome


@dataclass(frozen=True)
class Schedule:
    """A scenario with a name.

    Attributes:
        name: of what it showed, in a few words.
        wrong: a sentence of what was wrong; empty if nothing is known to be.
        scenario: that is run.
    """

    __pydantic_config__: ClassVar = STRICT
    name: str
    wrong: str
    scenario: Scenario

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


SIMULATED = (
    *("blocks.count", "blocks.only", "training.max_steps", "training.early_stopping", "training.replicas_per_block"),
    *("embedding", "checkpoint.", "engine.", "evaluation.samples"),
)
"""How settings begin that a simulated run heeds. Others might name files, networks or machines."""
MOST_BLOCKS, MOST_STEPS, LONGEST_SECONDS, LONGEST_TURN_SECONDS = 100, 100_000, 100_000.0, 10.0


def read_schedule(file: Path) -> Schedule:
    """Read a schedule from JSON.

    Raises:
        UserError: it cannot be read, or is no schedule; names the file and what is wrong.
    """
    try:
        with open_file(local_path(file), allow_pipe=True) as opened:
            schedule = from_json(Schedule, parse_json(opened.read(), JsonObject))
        _check(schedule.scenario)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {why(error)}") from error
    return schedule


def _check(scenario: Scenario) -> None:
    """Check what a scenario out of a file asks for.

    Raises:
        ValueError: there is no such thing, or it would reach out of the simulation, or take too long.
    """
    if not scenario.nodes or not all(1 <= cpus <= 64 and 0 <= gpus <= 8 for cpus, gpus in scenario.nodes):
        raise ValueError("scenario.nodes: at least one machine is needed, each of 1 to 64 cores and 0 to 8 GPUs")
    if not 0 <= scenario.turn_seconds <= LONGEST_TURN_SECONDS:
        raise ValueError(f"scenario.turn_seconds: {scenario.turn_seconds} is not from 0 to {LONGEST_TURN_SECONDS:g}")
    for number, fault in enumerate(scenario.faults):
        if (wrong := _wrong_with(fault)) is not None:
            raise ValueError(f"scenario.faults.{number}.{wrong}")
    for settings in (scenario.settings, *scenario.again):
        for setting in settings:
            if not setting.startswith(SIMULATED) or setting.startswith(("engine.address", "engine.profile")):
                raise ValueError(f"scenario.settings: {setting!r} is no part of a simulation")
        plan = plan_of(settings)
        if plan.config.blocks.count > MOST_BLOCKS or plan.total_steps > MOST_STEPS:
            raise ValueError(f"scenario.settings: at most {MOST_BLOCKS} blocks and {MOST_STEPS:,} steps are simulated")


def _wrong_with(fault: Fault) -> str | None:
    """The field of a fault that no run could heed, and why."""
    if fault.kind not in KINDS:
        return f"kind: there is no kind of fault {fault.kind!r}"
    if not -1 <= fault.seconds <= LONGEST_SECONDS:
        return f"seconds: {fault.seconds} is not from 0 to {LONGEST_SECONDS:,.0f}"
    if fault.point >= 0 and not fault.victim.startswith("coordinator "):
        return f"point: only a coordinator has points, such as 'coordinator 1', and not {fault.victim!r}"
    if fault.victim and fault.turn < 0 and fault.point < 0:
        return f"victim: {fault.victim!r} is killed at a turn or a point, and there is neither"
    return None


def course_of(scenario: Scenario) -> tuple[list[str], Outcome]:
    """What happens in a run, a line for each thing, and what becomes of it."""
    lines: list[str] = []
    outcome = outcome_of(scenario, lines.append)
    struck = f"{outcome.struck.total()} of {len(scenario.faults)} faults found something to hit"
    verdict = [f"violation: {each}" for each in outcome.violations] or [f"all is right; {struck}"]
    return [*lines, *verdict], outcome


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
