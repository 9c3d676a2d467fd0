"""What must hold of every run, whatever happens to it: on the way, when a driver ends, and at the end."""

import re
from collections import Counter
from typing import TYPE_CHECKING

from noprop_dist.engines.coordination import TakenOver
from noprop_dist.engines.core.round_queue import MAX_UNSAVED_SNAPSHOTS
from noprop_dist.engines.core.run import Run
from noprop_dist.errors import UserError
from noprop_dist.records import EmbeddingUpdated, Record, RoundDone, SnapshotWritten, StageFailed, WorkerLost
from noprop_dist.simulation.world import Process
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.checkpoint_writer import WAITING_KEPT
from noprop_dist.storage.run_directory import RunDirectory

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation

CHECKED_EVERY = 16
"""Turns of the core from one look at its queues to the next."""
STORE = frozenset(
    {
        "disk full",
        "store fails",
        "store hangs",
        "store slow",
        "listings stale",
        "power lost",
        "disk not there for a while",
    }
)
DAMAGE = frozenset(
    {
        *("bit flipped in a snapshot", "entry damaged", "manifest truncated"),
        *("metrics.jsonl: lines doubled", "metrics.jsonl: cut off", "metrics.jsonl: bit flipped"),
    }
)
"""Each of these also kills the coordinator."""
COORDINATOR = DAMAGE | {"coordinator killed", "coordinator stopped for a while", "driver killed", "power lost"}
ROOM = frozenset({"node killed", "node drained", "node drained, then kept", "no room: another run"})
SILENCE = (
    frozenset(
        {
            "node killed",
            "node drained",
            "actor stopped (SIGSTOP)",
            "actor stopped for a while",
            "actor slow",
            "network slow",
        }
    )
    | STORE
)
EXPLAINED = {
    r"could not be written for checkpoint.storage_timeout_seconds": STORE,
    r"did not answer for checkpoint.storage_timeout_seconds": STORE,
    r"the run directory cannot be (read or )?written": STORE,
    r"cannot be read: .*did not answer": STORE,
    r"last snapshots could not be written before the end of engine.grace_seconds": frozenset(),
    r"config.yaml is gone|holds no run|begun there": frozenset({"disk not there for a while"}),
    r"is writing this run": COORDINATOR | STORE,
    r"the coordinator was lost": COORDINATOR | STORE,
    r"no machine here has more than 0|there is no GPU here": ROOM,
    r"the coordinator did not end within engine.grace_seconds": COORDINATOR | STORE,
    r"not trained to the end: .*NonFiniteError": frozenset({"NaN in one block"}),
    r"not trained to the end: .*workers were lost": frozenset(),
    r"no block worker (was there|started)": ROOM,
    r"could not be measured": frozenset({"evaluator cannot start", "evaluator killed"}) | SILENCE | ROOM,
}
"""Errors with which a driver may end, and the faults of which one must have struck; none means any."""


class Bounds:
    """What is bounded while a run goes on.

    Args:
        simulation: that it is of.
    """

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self._turns = 0
        self._live = False
        self._lost: set[tuple[str, int]] = set()
        self._charges: Counter[Stage] = Counter()
        self._written: dict[Stage, int] = {}

    def begin(self, live: bool) -> None:
        """Another coordinator reads what the last one left (not live), or goes on from there."""
        self._live = live
        if not live:
            self._lost.clear()
            self._charges.clear()

    def heard(self, record: Record) -> None:
        """A record was written down, or read back."""
        if not self._live:
            return
        if isinstance(record, SnapshotWritten):
            self._written[record.stage] = max(record.step, self._written.get(record.stage, 0))
        elif isinstance(record, WorkerLost):
            self._worker_lost(record)
        elif isinstance(record, StageFailed) and "NonFiniteError" not in record.cause:
            self._simulation.violate(f"{record.stage.name} failed: {record.cause}")

    def _worker_lost(self, record: WorkerLost) -> None:
        process = (record.worker, record.incarnation)
        if process in self._lost:
            self._simulation.violate(f"{record.worker} #{record.incarnation} was lost twice")
        self._lost.add(process)
        if record.at_work_on is not None:
            self._charges[record.at_work_on] += 1
        struck = self._simulation.outcome.struck
        if record.reason == "hung" and not struck.keys() & (SILENCE | COORDINATOR):
            self._simulation.violate(f"{record.worker} was taken for hung, and nothing was slow")

    def took_over(self, taken: TakenOver) -> None:
        """A stage goes on from what was last written of it: nothing that was told to be written is lost."""
        self.begin(live=True)
        simulation, snapshots = self._simulation, taken.start.snapshots
        for snapshot in snapshots.values():
            simulation.check_snapshot(snapshot, "a snapshot that a run goes on from")
        if simulation.outcome.struck.keys() & DAMAGE or taken.start.stop_step is not None:
            return
        together = min((self._written.get(stage, 0) for stage in simulation.plan.stages), default=0)
        for stage in simulation.plan.stages:
            step = snapshots[stage].step if stage in snapshots else 0
            wanted = together if simulation.plan.learns_embedding else self._written.get(stage, 0)
            if step < wanted:
                simulation.violate(f"{stage.name} goes on from step {step}, and that of step {wanted} was written")

    def check(self, run: Run) -> None:
        """Look at all queues now and then."""
        self._turns += 1
        if self._turns % CHECKED_EVERY:
            return
        parts, engine = run._parts, self._simulation.plan.config.engine
        for stage, stage_run in run.stages.items():
            if stage_run.queue.rounds_in_flight > 3:
                self._simulation.violate(f"{stage.name} has {stage_run.queue.rounds_in_flight} rounds in flight")
            if parts.snapshots.unwritten(stage) > MAX_UNSAVED_SNAPSHOTS + 1:
                self._simulation.violate(f"{stage.name} has {parts.snapshots.unwritten(stage)} unwritten snapshots")
            if stage_run.failures > self._charges[stage]:
                self._simulation.violate(
                    f"{stage.name} is charged {stage_run.failures} losses of {self._charges[stage]}"
                )
        calls = sum(len(each) for slot in parts.pool.slots.values() for each in slot.calls.values())
        if calls > len(run.stages) * 8 + len(parts.pool.slots) * 3:
            self._simulation.violate(f"{calls} calls are under way")
        if len(parts.snapshots._tasks) > 3 * len(run.stages) + 20:
            self._simulation.violate(f"{len(parts.snapshots._tasks)} storage tasks wait")
        assert engine is not None


def check_error(simulation: "Simulation", error: str) -> None:
    """A driver may end with an error only if something explains it."""
    struck = simulation.outcome.struck.keys()
    for pattern, kinds in EXPLAINED.items():
        if re.search(pattern, error) and (not kinds or struck & kinds):
            return
    simulation.violate(f"nothing explains the error: {error}")


def check_one_writer(simulation: "Simulation", process: Process) -> None:
    """Whoever enters is the only process that writes; one that was stopped meanwhile counts once it goes on."""
    simulation.bounds.begin(live=False)
    others = [each for each in simulation.writers if each.alive and not each.paused and each is not process]
    if others:
        simulation.violate(f"{process.name} writes while {others[0].name} does")
    simulation.writers = {each: None for each in simulation.writers if each.alive}
    simulation.writers[process] = None


def check_stop(simulation: "Simulation") -> None:
    """After a stop every stage has a whole snapshot, and of a step to which all its records reach."""
    directory = RunDirectory(simulation.storage.undisturbed())
    if simulation.outcome.struck.keys() & (DAMAGE | {"power lost"}):
        return
    reached: Counter[Stage] = Counter()
    for record in directory.metrics():
        if isinstance(record, RoundDone):
            reached[record.stage] = record.step
    for name, steps in directory.checkpoints.saved_steps().items():
        found, warnings = directory.checkpoints.newest(name, steps)
        if found is None or warnings:
            simulation.violate(f"after a stop: {'; '.join(warnings) or f'{name} has no snapshot'}")
            return
        entry, snapshot = found
        simulation.check_snapshot(snapshot, "a snapshot after a stop")
        if reached[entry.stage] < entry.step and not simulation.plan.learns_embedding:
            simulation.violate(
                f"after a stop: {name} is saved at step {entry.step}, its records end at {reached[entry.stage]}"
            )


def check_end(simulation: "Simulation") -> None:
    """Weights, counted steps, figures and files of a finished run."""
    end, plan = simulation.end, simulation.plan
    assert end is not None
    late = simulation.last_step < end.step and bool(
        simulation.outcome.struck.keys() & STORE
    )  # a checkpoint was left out
    if end.error is not None or end.stopped or (end.step != simulation.last_step and not late):
        simulation.violate(f"the run ended with {end}, not at step {simulation.last_step}")
        return
    directory = RunDirectory(simulation.storage.undisturbed())
    try:
        manifest = directory.checkpoints.manifest()
    except UserError as error:
        simulation.violate(f"the last checkpoint: {error}")
        return
    if {entry.stage: entry.sha256 for entry in manifest.stages} != simulation.expected.fingerprints(end.step):
        simulation.violate(f"the checkpoint of step {manifest.step} has other bits than the undisturbed run")
    for entry in manifest.stages:
        try:
            directory.checkpoints.load(entry)
        except UserError as error:
            if not simulation.was_damaged(entry.step, entry.name):
                simulation.violate(f"the last checkpoint: {error}")
    _check_counts(simulation, directory, end.step)
    _check_files(simulation, directory)
    assert plan is not None


def _check_counts(simulation: "Simulation", directory: RunDirectory, total: int) -> None:
    """Every step is written down once. Where records were damaged from outside, none is there twice."""
    done: dict[Stage, list[tuple[int, int]]] = {stage: [] for stage in simulation.plan.stages}
    for record in directory.metrics_from(0)[0]:
        if isinstance(record, RoundDone):
            done[record.stage].append((record.first_step, record.step))
        elif isinstance(record, EmbeddingUpdated):
            done[EMBEDDING].append((record.first_step, record.step))
    damaged = any(kind.startswith("metrics.jsonl") or kind == "power lost" for kind in simulation.outcome.struck)
    for stage, rounds in done.items():
        reached = 0
        for first, last in rounds:
            if first < reached or (first > reached and not damaged):
                simulation.violate(f"{stage.name}: a round from step {first} follows one that ends at {reached}")
                return
            reached = last
        if not (reached == total or (reached > total < simulation.plan.total_steps)) and not damaged:
            simulation.violate(f"{stage.name}: {reached} of {total} steps are written down")


def _check_files(simulation: "Simulation", directory: RunDirectory) -> None:
    """What is kept is bounded."""
    keep = simulation.plan.config.checkpoint.num_to_keep
    most = keep + WAITING_KEPT + len(simulation.plan.checkpoint_steps).bit_length() + 4
    for name, steps in directory.checkpoints.saved_steps().items():
        if len(steps) > most:
            simulation.violate(f"{len(steps)} snapshots of {name} are kept, at most {most} may be")
