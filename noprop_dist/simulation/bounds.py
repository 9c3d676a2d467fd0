"""What must hold while one coordinator has a run: what it writes down, what it asks for, and how much waits."""

from collections import Counter
from typing import TYPE_CHECKING

from noprop_dist.engines.coordination import TakenOver
from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.actor_pool import PING_PATIENCE
from noprop_dist.engines.core.failure_policy import UNLIMITED
from noprop_dist.engines.core.round_queue import MAX_UNSAVED_SNAPSHOTS
from noprop_dist.engines.core.run import Run
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.records import (
    Record,
    RoundDone,
    SnapshotWritten,
    StageFailed,
    WorkerLost,
)
from noprop_dist.simulation.explained import COORDINATOR, DAMAGE, SILENCE
from noprop_dist.simulation.invariants import check_manifest
from noprop_dist.stages import Stage
from noprop_dist.storage.checkpoint_writer import SNAPSHOTS_KEPT
from noprop_dist.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation

CHECKED_EVERY = 16
"""Turns of the core from one look at its queues to the next."""
CUT_SHORT = "was cut short by the end of the run"
"""Of a version of W_embed, where a run is made longer."""
AWAY_SECONDS = 5.0
"""A coordinator that did nothing for so long was stopped: it could not notice anything."""


class Bounds:
    """What is bounded while one coordinator has a run.

    Args:
        simulation: that it is of.
        before: of the coordinator before; None for the first.
    """

    def __init__(self, simulation: "Simulation", before: "Bounds | None" = None) -> None:
        self._simulation = simulation
        self._turns = 0
        self._turned_at = 0.0
        self._was_away_at = 0.0
        self._live = False
        self._lost: set[tuple[str, int]] = set()
        self._charges: Counter[Stage] = Counter()
        self._replays_to: dict[Stage, int] = {}
        self._written: dict[Stage, list[int]] = {} if before is None else before._written
        self._coordinators_lost: Counter[int] = Counter() if before is None else before._coordinators_lost

    def heard(self, record: Record) -> None:
        """A record was written down; those of earlier coordinators do not count."""
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
        self._live = True
        simulation, snapshots = self._simulation, taken.start.snapshots
        for snapshot in snapshots.values():
            simulation.check_snapshot(snapshot, "a snapshot that a run goes on from")
        told = [each for each in taken.warnings if CUT_SHORT not in each]
        if told and not simulation.outcome.struck.keys() & DAMAGE:
            simulation.violate(f"a resume warns of damage, and there was none: {told[0]}")
        if taken.start.stop_step is not None or simulation.storage.away:
            return  # a driver that never heard of a beginning takes what is there for all there is
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
        together = filter(self._simulation.plan.ends_version, steps)
        return {step for step in together if not self._simulation.was_damaged(step, name)}

    def asked_for(self, command: c.Command) -> None:
        """A worker whose node leaves is sent no rounds; a stage that moves goes on where it stood."""
        coordinator, thread = self._simulation.coordinator, self._simulation.world.current
        if coordinator is None or thread is None or coordinator.process is not thread.process:
            return  # it was given up, and does not know yet
        if not isinstance(command, c.CallActor) or coordinator.run is None:
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
            charged = stage_run.losses.total()
            if charged > self._charges[stage]:
                self._simulation.violate(f"{stage.name} is charged {charged} losses of {self._charges[stage]}")
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
