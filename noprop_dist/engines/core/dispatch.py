"""Sends every stage its rounds, as far as its queue allows and, if W_embed is learned, the version that is there."""

from collections.abc import Mapping

from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.core.actor_pool import ActorPool
from noprop_dist.engines.core.commands import Request, TakeSnapshot, Train, UpdateEmbedding
from noprop_dist.engines.core.snapshots import Snapshots
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.embedding import EmbeddingExchange, EmbeddingVersion
from noprop_dist.training.messages import RoundReport

HANG_FACTOR = 10
"""A worker counts as hung after this many times its slowest recent round, and at least `engine.hang_seconds`."""

MOST_ROUNDS_PER_SECOND = 2000.0
"""Of all workers together. One coordinator carries some 3,000 on Ray, whose calls are nearly all that they cost."""


def round_steps_for(usual: int, most: int, workers: int, step_seconds: float) -> int:
    """Steps of a round: twice the usual, or four times, …, where the coordinator could not keep up otherwise.

    Args:
        usual: steps.
        most: steps.
        workers: that train at the same time.
        step_seconds: of one step.
    """
    steps = usual
    while 2 * steps <= most and workers > MOST_ROUNDS_PER_SECOND * steps * step_seconds:
        steps *= 2
    return steps


class Dispatch:
    """The rounds of one run.

    Args:
        stages: of the run.
        pool: of its actors.
        snapshots: of its stages.
        exchange: of versions of W_embed; None if that is fixed.
        engine: settings.
        round_steps: most steps in a round, as a rule.
        most_round_steps: what that may be raised to.
    """

    def __init__(
        self,
        stages: Mapping[Stage, StageRun],
        pool: ActorPool,
        snapshots: Snapshots,
        exchange: EmbeddingExchange | None,
        engine: EngineSettings,
        round_steps: int,
        most_round_steps: int,
    ) -> None:
        self._stages = stages
        self._pool = pool
        self._snapshots = snapshots
        self._exchange = exchange
        self._engine = engine
        self._round_steps, self._most_round_steps = round_steps, most_round_steps

    def send(self, now: float, up_to: int | None = None) -> None:
        """Send all that may be sent now.

        Args:
            now: monotonic seconds.
            up_to: the step that rounds may reach at most; None is the end of the run.
        """
        for stage_run in self._stages.values():
            if stage_run.queue.is_full or stage_run.worker is None or stage_run.leaving:
                continue
            stage_run.queue.round_steps = self._steps_of(stage_run)
            while (
                work := stage_run.queue.next_round(
                    self._snapshots.holding_up(stage_run.stage), self._limit(stage_run, up_to)
                )
            ) is not None:
                self._call(stage_run, self._request(stage_run, *work), now)
                if stage_run.queue.at_snapshot:
                    self.ask_snapshot(
                        stage_run, now
                    )  # calls are done in order: this is the state right after the round

    def ask_snapshot(self, stage_run: StageRun, now: float) -> None:
        """Ask for a stage's state after all that it was sent."""
        stage_run.queue.snapshot_asked()
        self._call(stage_run, TakeSnapshot(stage_run.stage), now)

    def gather(self, report: RoundReport) -> None:
        """Gather the gradient of W_embed that came with a report."""
        if self._exchange is not None and report.embedding_gradient is not None:
            self._exchange.gather(report.stage, report.steps_done, report.embedding_gradient)

    def publish(self, version: EmbeddingVersion) -> None:
        """Let the stages go on with a new version of W_embed; forget those that none can go back to."""
        assert self._exchange is not None
        self._exchange.publish(version)
        self._exchange.forget_before(min(self._snapshots.newest_step(stage) for stage in self._stages))

    def _limit(self, stage_run: StageRun, up_to: int | None) -> int | None:
        """The step at which the stage's next round has to end at last; None is the end of the run."""
        if self._exchange is None:
            return up_to
        step = stage_run.queue.next_step
        is_owner = stage_run.stage == EMBEDDING
        limit = self._exchange.may_update_to(step) if is_owner else self._exchange.may_train_to(step)
        return limit if up_to is None else min(limit, up_to)

    def _steps_of(self, stage_run: StageRun) -> int:
        """Most steps of a stage's next round. No bit depends on it."""
        queue, seconds = stage_run.queue, stage_run.slowest_step_seconds
        if stage_run.stage == EMBEDDING:
            return queue.round_steps
        # A replay goes in rounds of the usual length, so that none reaches beyond what is written.
        if stage_run.worker is None or seconds is None or queue.next_step < stage_run.steps_written:
            return self._round_steps
        at_once = self._pool.slots[stage_run.worker].lanes * len(self._pool.slots.those("is_ready_block_worker"))
        return round_steps_for(self._round_steps, self._most_round_steps, at_once, seconds)

    def _request(self, stage_run: StageRun, first_step: int, steps: int) -> Request:
        if self._exchange is None:
            return Train(RoundKey(stage_run.stage, first_step, steps))
        if stage_run.stage == EMBEDDING:
            update = self._exchange.update_at(first_step)
            assert update is not None  # the limit says so
            return UpdateEmbedding(update)
        return Train(RoundKey(stage_run.stage, first_step, steps, self._exchange.at(first_step)))

    def _call(self, stage_run: StageRun, request: Request, now: float) -> None:
        assert stage_run.worker is not None
        self._pool.call(stage_run.worker, request, stage_run.stage, self._patience_seconds(stage_run), now)

    def _patience_seconds(self, stage_run: StageRun) -> float:
        """Seconds without a reply until its worker counts as hung: by the stage's step time, once that is known."""
        if stage_run.slowest_step_seconds is None:
            return self._engine.stall_timeout_seconds
        steps = self._round_steps if stage_run.stage == EMBEDDING else stage_run.queue.round_steps
        return max(self._engine.hang_seconds, HANG_FACTOR * steps * stage_run.slowest_step_seconds)
