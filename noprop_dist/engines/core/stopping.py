"""A stop on request: every stage is snapshotted where it stands, within the grace period."""

from math import inf

from noprop_dist.engines.core.commands import EVALUATOR, Stop
from noprop_dist.engines.core.parts import Parts
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
        self.hands_over = False
        """Whether the run goes on elsewhere."""

    @property
    def requested(self) -> bool:
        return self.deadline < inf

    @property
    def holds_stages(self) -> bool:
        """Return True if some stage is not snapshotted yet."""
        return any(stage_run.worker is not None for stage_run in self._parts.stages.values())

    def request(self, now: float, *, hand_over: bool = False) -> None:
        """Tell every worker to begin no further step.

        Args:
            now: monotonic seconds.
            hand_over: whether another coordinator is to go on. A request to end the run comes before that.
        """
        self.hands_over = hand_over
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
            beyond = stage_run.is_beyond(self._parts.snapshots.newest_step(stage_run.stage))
            # With a learned W_embed a run can only go on from a step that all stages have a snapshot of.
            if beyond and EMBEDDING not in self._parts.stages and stage_run.stage not in self._asked:
                self._asked.add(stage_run.stage)
                stage_run.leave()
                self._parts.dispatch.ask_snapshot(stage_run, now)
            else:
                self._parts.assignment.take_off(stage_run, now)
