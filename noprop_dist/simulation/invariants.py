"""What must hold of every run, whatever happens to it: on the way, when a driver ends, and at the end."""

import re
from collections import Counter
from typing import TYPE_CHECKING

from noprop_dist.engines.coordination import TakenOver
from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.actor_pool import PING_PATIENCE
from noprop_dist.engines.core.commands import EVALUATOR
from noprop_dist.engines.core.failure_policy import UNLIMITED
from noprop_dist.engines.core.round_queue import MAX_UNSAVED_SNAPSHOTS
from noprop_dist.engines.core.run import Run
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.errors import UserError
from noprop_dist.records import (
    CheckpointCompleted,
    EmbeddingUpdated,
    Evaluated,
    News,
    Record,
    RoundDone,
    SnapshotWritten,
    StageFailed,
    WorkerLost,
)
from noprop_dist.simulation.world import Process
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.checkpoint_writer import SNAPSHOTS_KEPT, WAITING_KEPT
from noprop_dist.storage.checkpoints import MANIFEST, SnapshotEntry
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation

CHECKED_EVERY = 16
"""Turns of the core from one look at its queues to the next."""
LEFTOVERS = 3
"""Steps of which the last coordinator may have left files that nobody needs."""
WRITTEN_ANEW = "it was written anew from the snapshots' own entries"
"""Of a manifest: a process may have died just before it wrote it."""
AWAY_SECONDS = 5.0
"""A coordinator that did nothing for so long was stopped: it could not notice anything."""
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
COORDINATOR = DAMAGE | {
    "coordinator killed",
    "coordinator out of reach",
    "coordinator stopped for a while",
    "driver killed",
    "power lost",
}
STRANGERS = frozenset({"snapshot of another run", "seed edited", "other data"})
UNSURE = DAMAGE | STRANGERS | {"power lost", "listings stale", "disk not there for a while"}
"""After these a file may be missing or damaged, or seem so."""
NODES = frozenset({"node killed", "raylet killed", "raylet stopped", "node drained"})
ROOM = NODES | {"node drained, then kept", "no room: another run"}
SILENCE = (
    NODES
    | frozenset(
        {
            "one lane stuck",
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
    r"config.yaml is gone|holds no run|begun there|No such file": frozenset({"disk not there for a while"}),
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
        self._turned_at = 0.0
        self._was_away_at = 0.0
        self._live = False
        self._lost: set[tuple[str, int]] = set()
        self._charges: Counter[Stage] = Counter()
        self._written: dict[Stage, list[int]] = {}
        self._replays_to: dict[Stage, int] = {}
        self._coordinators_lost: Counter[int] = Counter()

    def begin(self, live: bool) -> None:
        """Another coordinator reads what the last one left (not live), or goes on from there."""
        self._live = live
        if not live:
            self._lost.clear()
            self._charges.clear()
            self._replays_to.clear()

    def heard(self, record: Record) -> None:
        """A record was written down, or read back."""
        if not self._live:
            return
        if isinstance(record, SnapshotWritten):
            self._has_written(record.stage, record.step)
        elif isinstance(record, WorkerLost):
            self._worker_lost(record)
        elif isinstance(record, RoundDone):
            self._coordinators_lost.clear()
        elif isinstance(record, StageFailed) and "NonFiniteError" not in record.cause:
            self._simulation.violate(f"{record.stage.name} failed: {record.cause}")

    def _has_written(self, stage: Stage, step: int) -> None:
        self._written[stage] = self._up_to(stage, step)
        check_manifest(self._simulation, step)

    def _up_to(self, stage: Stage, step: int) -> list[int]:
        return [*(each for each in self._written.get(stage, ()) if each < step), step]

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
        told = [each for each in taken.warnings if not each.endswith(WRITTEN_ANEW)]
        if told and not simulation.outcome.struck.keys() & DAMAGE:
            simulation.violate(f"a resume warns of damage, and there was none: {told[0]}")
        if taken.start.stop_step is not None:
            return
        undamaged = {stage: self._undamaged(stage) for stage in simulation.plan.stages}
        together = set.intersection(*undamaged.values())
        for stage, steps in undamaged.items():
            step = snapshots[stage].step if stage in snapshots else 0
            wanted = max(together if simulation.plan.learns_embedding else steps, default=0)
            self._written[stage] = self._up_to(stage, step)
            if step < wanted:
                simulation.violate(f"{stage.name} goes on from step {step}, and that of step {wanted} was written")

    def _undamaged(self, stage: Stage) -> set[int]:
        """The steps of a stage's last snapshots that were written, and were not damaged from outside after that."""
        name = stage.file(self._simulation.plan.config.blocks.count)
        steps = self._written.get(stage, [])[-SNAPSHOTS_KEPT:]
        return {step for step in steps if not self._simulation.was_damaged(step, name)}

    def asked_for(self, command: c.Command) -> None:
        """A worker whose node leaves is sent no rounds; a stage that moves goes on where it stood."""
        coordinator = self._simulation.coordinator
        if not isinstance(command, c.CallActor) or coordinator is None or coordinator.run is None:
            return
        run, slot = coordinator.run, command.process.slot
        if isinstance(command.request, c.Hold):
            self._held(run.stages[command.request.stage], command.request.snapshot)
        elif isinstance(command.request, c.Train) and run._parts.pool.slots[slot].leaving:
            self._simulation.violate(f"{slot.name} is sent a round, and its node leaves")

    def _held(self, stage_run: StageRun, snapshot: Snapshot | None) -> None:
        step = 0 if snapshot is None else snapshot.step
        self.check_kept(stage_run, step, "it moved")
        if step < stage_run.steps_written:
            self._replays_to[stage_run.stage] = stage_run.steps_written

    def check_kept(self, stage_run: StageRun, step: int, why: str) -> None:
        """A stage goes on from `step`: it goes back only if its worker was lost, or if it replays already."""
        reached = stage_run.steps_written
        if step < reached != self._replays_to.get(stage_run.stage) and stage_run.lost_at is None:
            self._simulation.violate(
                f"{stage_run.stage.name} goes back from step {reached} to {step}, only because {why}"
            )

    def coordinator_lost(self) -> None:
        """A driver has lost a coordinator; `engine.max_failures` bounds those that trained nothing."""
        self._coordinators_lost[self._simulation.lives] += 1
        lost, most = self._coordinators_lost[self._simulation.lives], self._simulation.plan.config.engine.max_failures
        if UNLIMITED != most < lost - 1:
            self._simulation.violate(f"{lost} coordinators were lost in a row, engine.max_failures={most}")

    def check(self, run: Run) -> None:
        """Look at all queues now and then."""
        self._turns += 1
        now = self._simulation.world.now
        if now - self._turned_at > AWAY_SECONDS:
            self._was_away_at = now
        self._turned_at = now
        if self._turns % CHECKED_EVERY:
            return
        parts, limit = run._parts, run._plan.config.engine.blocks_per_worker
        for stage, stage_run in run.stages.items():
            if stage_run.queue.rounds_in_flight > 3:
                self._simulation.violate(f"{stage.name} has {stage_run.queue.rounds_in_flight} rounds in flight")
            if parts.snapshots.unwritten(stage) > MAX_UNSAVED_SNAPSHOTS + 1:
                self._simulation.violate(f"{stage.name} has {parts.snapshots.unwritten(stage)} unwritten snapshots")
            if (
                limit is not None
                and stage_run.worker is not None
                and len(parts.assignment.held_by(stage_run.worker)) > limit
            ):
                self._simulation.violate(f"{stage_run.worker.name} holds more than {limit} blocks")
            if stage_run.failures > self._charges[stage]:
                self._simulation.violate(
                    f"{stage.name} is charged {stage_run.failures} losses of {self._charges[stage]}"
                )
            self._check_waits(run, stage)
        self._check_silence(run)
        calls = sum(len(each) for slot in parts.pool.slots.values() for each in slot.calls.values())
        if calls > len(run.stages) * 8 + len(parts.pool.slots) * 3:
            self._simulation.violate(f"{calls} calls are under way")
        if len(parts.snapshots._tasks) > 3 * len(run.stages) + 20:
            self._simulation.violate(f"{len(parts.snapshots._tasks)} storage tasks wait")

    def _check_waits(self, run: Run, stage: Stage) -> None:
        """The newest snapshot that is to be written is written, or waits."""
        step, written = run._parts.snapshots.saved_step(stage), self._written.get(stage, [0])
        if step > written[-1] and not run._parts.snapshots.unwritten(stage) and run._stopped_at is None:
            self._simulation.violate(
                f"the snapshot of {stage.name} at step {step} is neither written nor waits for that"
            )

    def _check_silence(self, run: Run) -> None:
        """A process that answers nothing is lost soon, however long its round may take."""
        now, most = self._simulation.world.now, (PING_PATIENCE + 2) * run._plan.config.engine.hang_seconds
        for slot in run._parts.pool.slots.values():
            since = [call.since for calls in slot.calls.values() for call in calls]
            if slot.ready and since and now - max(min(since), self._was_away_at, *slot.heard.values()) > most:
                self._simulation.violate(f"{slot.slot.name} is silent for more than {most:.0f} s and not lost")


def check_error(simulation: "Simulation", error: str) -> None:
    """A driver may end with an error only if something explains it."""
    struck, driver = simulation.outcome.struck.keys(), simulation.driver
    is_unlimited = simulation.plan.config.engine.max_failures == UNLIMITED
    if "the coordinator was lost" in error and is_unlimited and driver is not None and not driver.stop:
        simulation.violate(f"the driver ended, and engine.max_failures is {UNLIMITED}: {error}")
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


def check_write(simulation: "Simulation", process: Process, what: str) -> None:
    """Once another process has entered, a process that was stopped meanwhile writes no more than what it was at."""
    if process not in simulation.writers or process is next(reversed(simulation.writers)):
        return
    written = simulation.late_writes.setdefault(process, set())
    written.add(what)
    if len(written) > 1:
        simulation.violate(f"{process.name} writes on, though another process took over")


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
        _check_kept_by_stop(simulation, entry)
        if reached[entry.stage] < entry.step and not simulation.plan.learns_embedding:
            simulation.violate(
                f"after a stop: {name} is saved at step {entry.step}, its records end at {reached[entry.stage]}"
            )


def _check_kept_by_stop(simulation: "Simulation", entry: SnapshotEntry) -> None:
    """What a coordinator had when it was stopped is written, and no step was thrown away."""
    coordinator = simulation.coordinator
    if coordinator is None or coordinator.run is None:
        return
    run = coordinator.run
    stage_run, saved = run.stages[entry.stage], run._parts.snapshots.saved_step(entry.stage)
    if entry.step < saved:
        simulation.violate(f"after a stop: {entry.name} is saved at step {entry.step}, its snapshot of {saved} is lost")
    if stage_run.waits and not simulation.plan.learns_embedding:
        simulation.bounds.check_kept(stage_run, saved, "of a stop")


def check_manifests(simulation: "Simulation") -> None:
    """Wherever there is a manifest, a whole checkpoint is."""
    if not simulation.outcome.struck.keys() & UNSURE:
        for step in RunDirectory(simulation.storage.undisturbed()).checkpoints.steps():
            check_manifest(simulation, step)


def check_manifest(simulation: "Simulation", step: int) -> None:
    """The manifest of a step, if there is one, names all stages, and each of their snapshots is there."""
    store = simulation.storage.undisturbed()
    if simulation.outcome.struck.keys() & UNSURE or not store.exists(f"checkpoints/step-{step:08d}/{MANIFEST}"):
        return
    try:
        snapshots = RunDirectory(store).checkpoints.load_all(step)
    except UserError as error:
        simulation.violate(f"a checkpoint is not whole: {error}")
        return
    missing = [stage.name for stage in simulation.plan.stages if stage not in snapshots]
    if missing:
        simulation.violate(f"the manifest of step {step} lacks {missing[0]}")


def check_not_measured(simulation: "Simulation", evaluator: Process, error: UserError) -> None:
    """What the evaluator of the present coordinator is to measure is there."""
    coordinator = simulation.coordinator
    if coordinator is None or not coordinator.process.alive or coordinator.run is None:
        return
    number = coordinator.run._parts.pool.slots[EVALUATOR].incarnation
    if evaluator.name != f"{EVALUATOR.name}#{number} of {coordinator.process.name}":
        return
    if not simulation.outcome.struck.keys() & UNSURE and coordinator.run._stopped_at is None:
        simulation.violate(f"a checkpoint that is to be measured: {error}")


def check_end(simulation: "Simulation") -> None:
    """Weights, counted steps, figures and files of a finished run."""
    end, plan = simulation.end, simulation.plan
    assert end is not None
    left_out = bool(simulation.outcome.struck.keys() & (STORE | DAMAGE))
    late = simulation.last_step < end.step and left_out  # a checkpoint was left out
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
    if plan.evaluates:
        _check_measured(simulation, directory, end.step)


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


def _check_measured(simulation: "Simulation", directory: RunDirectory, last: int) -> None:
    """Every checkpoint is measured once, unless people were told that it is left out; a stop waits for no measuring."""
    if simulation.outcome.struck.keys() & (UNSURE | STORE | {"stop asked for"}):
        return
    records = directory.metrics_from(0)[0]
    told = "".join(record.text for record in records if isinstance(record, News) and "was not measured" in record.text)
    measured = Counter(record.step for record in records if isinstance(record, Evaluated))
    for step in {record.step for record in records if isinstance(record, CheckpointCompleted)}:
        if measured[step] > 1 or (measured[step] == 0 and step <= last and f"of step {step} " not in told):
            simulation.violate(f"the checkpoint of step {step} was measured {measured[step]} times")


def _check_files(simulation: "Simulation", directory: RunDirectory) -> None:
    """What is kept is bounded."""
    keep = simulation.plan.config.checkpoint.num_to_keep
    most = keep + WAITING_KEPT + len(simulation.plan.checkpoint_steps).bit_length() + 4
    folders = len(directory.checkpoints.steps_before(10**14))
    if folders > most + LEFTOVERS:
        simulation.violate(f"{folders} steps are kept, at most {most} may be")
    for name, steps in directory.checkpoints.saved_steps().items():
        if len(steps) > most:
            simulation.violate(f"{len(steps)} snapshots of {name} are kept, at most {most} may be")
