"""Sends every stage its rounds: as far as its own queue and, where W_embed is learned, its version let it go."""

from collections import Counter

from noprop_dist.engines.ray.fleet import Fleet
from noprop_dist.engines.ray.snapshot_keeper import SnapshotKeeper
from noprop_dist.engines.ray.stage import Stage
from noprop_dist.training.batch_stream import BatchStream, RoundKey
from noprop_dist.training.embedding import EmbeddingVersion
from noprop_dist.training.embedding_exchange import EmbeddingExchange
from noprop_dist.training.progress import RoundReport
from noprop_dist.training.setup import RunSetup

HANG_FACTOR = 10
"""A worker counts as hung after so many times its slowest round of late (and at least engine.hang_seconds)."""


class Dispatcher:
    """One use, in one loop.

    Args:
        setup: of the run.
        stages: by number.
        fleet: workers of the run.
        keeper: of the snapshots.
        stream: of the batches.
        exchange: of versions of W_embed; None where that is fixed.
        draws: the rounds itself; else it sends their keys, and the workers draw.
    """

    def __init__(
        self,
        setup: RunSetup,
        stages: dict[int, Stage],
        fleet: Fleet,
        keeper: SnapshotKeeper,
        stream: BatchStream,
        exchange: EmbeddingExchange | None,
        draws: bool,
    ) -> None:
        self._setup = setup
        self._engine = setup.config.engine
        self._stages = stages
        self._fleet = fleet
        self._keeper = keeper
        self._stream = stream
        self._exchange = exchange
        self._draws = draws
        self.sent_bytes = Counter[int]()

    def send(self) -> None:
        """Send all that may be sent now."""
        for stage in self._stages.values():
            if stage.worker is None or stage.leaving or stage.stopped:
                continue
            while (work := stage.queue.next_round(self._keeper.unsaved(stage.number), self._limit(stage))) is not None:
                self._send(stage, *work)
                if stage.queue.at_snapshot:
                    self.ask_snapshot(stage)  # calls are done in order: this is the state right after the round

    def ask_snapshot(self, stage: Stage) -> None:
        """Ask for a stage's state after all that it was sent."""
        assert stage.worker is not None
        stage.queue.snapshot_asked()
        worker = self._fleet.workers[stage.worker]
        self._fleet.call(worker, "snapshot", self._patience(stage), stage.number, stage=stage.number)

    def gather(self, report: RoundReport) -> None:
        """Take the gradient of W_embed that came with a report."""
        if self._exchange is not None and report.embedding_gradient is not None:
            self._exchange.gather(report.stage, report.steps_done, report.embedding_gradient)

    def publish(self, version: EmbeddingVersion) -> None:
        """Let the stages go on with a new version of W_embed; what none can go back to is forgotten."""
        assert self._exchange is not None
        self._exchange.publish(version)
        self._exchange.forget_before(min(self._keeper.latest_step(number) for number in self._stages))

    def _limit(self, stage: Stage) -> int | None:
        if self._exchange is None:
            return None
        step = stage.queue.next_step
        is_owner = stage.number == self._setup.embedding_stage
        return self._exchange.may_update_to(step) if is_owner else self._exchange.may_train_to(step)

    def _send(self, stage: Stage, first_step: int, steps: int) -> None:
        assert stage.worker is not None
        worker, patience = self._fleet.workers[stage.worker], self._patience(stage)
        if self._exchange is not None and stage.number == self._setup.embedding_stage:
            update = self._exchange.update_at(first_step)
            self._fleet.call(worker, "update", patience, update, stage=stage.number)
            return
        version = None if self._exchange is None else self._exchange.at(first_step)
        key = RoundKey(stage.number, first_step, steps, version)
        work = self._stream.round(key) if self._draws else key
        self.sent_bytes[stage.number] += work.nbytes
        self._fleet.call(worker, "train", patience, work, stage=stage.number)

    def _patience(self, stage: Stage) -> float:
        """Until its worker counts as hung: by the stage's own step time, once that is known."""
        if stage.slowest_step_seconds is None:
            return self._engine.stall_timeout_seconds
        return max(self._engine.hang_seconds, HANG_FACTOR * self._setup.round_steps * stage.slowest_step_seconds)
