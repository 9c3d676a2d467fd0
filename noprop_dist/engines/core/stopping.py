"""A stop on request: every stage is snapshotted where it stands, within the grace period."""

from collections.abc import Mapping
from math import inf

from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.core.actors import ActorPool
from noprop_dist.engines.core.assignment import Assignment
from noprop_dist.engines.core.commands import EVALUATOR, Stop
from noprop_dist.engines.core.dispatch import Dispatch
from noprop_dist.engines.core.snapshots import Snapshots
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.stages import EMBEDDING, Stage


class Stopping:
    """The end of one run before all of its steps are done.

    Args:
        stages: of the run.
        pool: of its actors.
        snapshots: of its stages.
        assignment: which stage is where.
        dispatch: asks for snapshots.
        engine: settings, with the grace period.
    """

    def __init__(
        self,
        stages: Mapping[Stage, StageRun],
        pool: ActorPool,
        snapshots: Snapshots,
        assignment: Assignment,
        dispatch: Dispatch,
        engine: EngineSettings,
    ) -> None:
        self._stages = stages
        self._pool = pool
        self._snapshots = snapshots
        self._assignment = assignment
        self._dispatch = dispatch
        self._engine = engine
        self._asked = set[Stage]()
        self.deadline = inf

    @property
    def requested(self) -> bool:
        return self.deadline < inf

    @property
    def holds_stages(self) -> bool:
        """Return True if some stage is not snapshotted yet."""
        return any(run.worker is not None for run in self._stages.values())

    def request(self, now: float) -> None:
        """Tell every worker to begin no further step."""
        if self.requested:
            return
        self.deadline = now + self._engine.grace_seconds
        for slot in self._pool.slots.values():
            if slot.ready and slot.slot != EVALUATOR:
                self._pool.call(slot.slot, Stop(), None, self._engine.grace_seconds, now)

    def advance(self, now: float) -> None:
        """Ask for the snapshots of stages that have come to rest, and take those off that have theirs."""
        for run in self._stages.values():
            if run.worker is None or not run.queue.idle:
                continue
            if self._has_news(run) and run.stage not in self._asked:
                self._asked.add(run.stage)
                run.leave()
                self._dispatch.ask_snapshot(run, now)
            else:
                self._assignment.take_off(run, now)

    def _has_news(self, run: StageRun) -> bool:
        """Return True if a stage is beyond its newest snapshot, and a run can go on from where it stands.

        A run cannot go on from the middle of a replay: the records reach further, and the older snapshot is as good.
        With a learned W_embed it can only go on from a step that all stages have a snapshot of.
        """
        saved = self._snapshots.newest_step(run.stage)
        return EMBEDDING not in self._stages and saved < run.queue.steps_done >= run.steps_written
