"""A stop on request: every stage is snapshotted where it stands, within the grace period."""

from math import inf

from noprop_dist.engines.core.commands import EVALUATOR, Stop
from noprop_dist.engines.core.parts import Parts
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.stages import EMBEDDING, Stage


class Stopping:
    """The end of one run before all of its steps are done.

    Args:
        parts: of the run.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._asked = set[Stage]()
        self.deadline = inf

    @property
    def requested(self) -> bool:
        return self.deadline < inf

    @property
    def holds_stages(self) -> bool:
        """Return True if some stage is not snapshotted yet."""
        return any(stage_run.worker is not None for stage_run in self._parts.stages.values())

    def request(self, now: float) -> None:
        """Tell every worker to begin no further step."""
        if self.requested:
            return
        self.deadline = now + self._parts.engine.grace_seconds
        for slot in self._parts.pool.slots.values():
            if slot.ready and slot.slot != EVALUATOR:
                self._parts.pool.call(slot.slot, Stop(), None, self._parts.engine.grace_seconds, now)

    def advance(self, now: float) -> None:
        """Ask for the snapshots of stages that have come to rest, and take those off that have theirs."""
        for stage_run in self._parts.stages.values():
            if stage_run.worker is None or not stage_run.queue.idle:
                continue
            if self._is_beyond_its_snapshot(stage_run) and stage_run.stage not in self._asked:
                self._asked.add(stage_run.stage)
                stage_run.leave()
                self._parts.dispatch.ask_snapshot(stage_run, now)
            else:
                self._parts.assignment.take_off(stage_run, now)

    def _is_beyond_its_snapshot(self, stage_run: StageRun) -> bool:
        """Return True if a stage is beyond its newest snapshot, and a run can go on from where it stands.

        A run cannot go on from the middle of a replay: the records reach further, and the older snapshot is as good.
        With a learned W_embed it can only go on from a step that all stages have a snapshot of.
        """
        saved = self._parts.snapshots.newest_step(stage_run.stage)
        return EMBEDDING not in self._parts.stages and saved < stage_run.queue.steps_done >= stage_run.steps_written
