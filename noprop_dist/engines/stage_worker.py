"""What every worker does: it holds stages, and does the rounds that the coordinator sends."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import BatchStream, Round, RoundKey
from noprop_dist.training.beside import Beside, at_work
from noprop_dist.training.device import start_thread
from noprop_dist.training.embedding import EmbeddingUpdate, EmbeddingVersion
from noprop_dist.training.messages import Accompanied, EmbeddingReport, RoundReport, StageFailure
from noprop_dist.training.replicas import GroupLostError
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import RunSetup

Result = TypeVar("Result")
WORKER_ERRORS = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError), GroupLostError)
"""These end the worker, and a new one tries again. Any other error would be raised again: same batches, same bits."""


class StageWorker:
    """Stages on one device; calls of a stage are done in the order in which they arrive, all by the same thread.

    Only `stop` and `ping` do not wait for the calls before them.

    Args:
        setup: of the run.
        stream: draws the batches if only the key of a round is sent.
        device: that it computes on.
        build: makes the trainer of a stage at step 0: a `StageTrainer`, or the `EmbeddingTrainer`.
    """

    def __init__(
        self, setup: RunSetup, stream: BatchStream, device: torch.device, build: Callable[[Stage], Any]
    ) -> None:
        self._setup = setup
        self._stream = stream
        self._device = device
        self._build = build
        self._trainers: dict[Stage, Any] = {}
        self._stopped = False
        self._beside: dict[Stage, Beside] = {}

    def ping(self) -> None:
        """Answer: the process is there."""

    def hold(self, stage: Stage, snapshot: Snapshot | None) -> StageFailure | Accompanied | None:
        """Take a stage in, at a snapshot or (without one) at step 0."""
        return self._accompanied(stage, lambda: self._hold(stage, snapshot))

    def _hold(self, stage: Stage, snapshot: Snapshot | None) -> StageFailure | None:
        # Ray calls methods from other threads than the constructor. Each stage belongs to one of these threads.
        start_thread(self._device, self._setup.config.engine.threads_per_worker)
        try:
            trainer = self._build(stage)
            if snapshot is not None:
                trainer.restore(snapshot)
        except WORKER_ERRORS:
            raise
        except (Exception, SystemExit) as error:  # whatever a network may raise belongs to this stage alone
            return StageFailure.of(stage, 0 if snapshot is None else snapshot.step, error)
        self._trainers[stage] = trainer
        return None

    def release(self, stage: Stage) -> None:
        """Let a stage go: it is done, or goes on elsewhere."""
        self._trainers.pop(stage, None)
        self._beside.pop(stage, None)

    def train(self, work: Round | RoundKey) -> RoundReport | StageFailure | Accompanied | None:
        """Do the steps of a round; None if the worker was told to stop before the first."""
        return self._attempt(work.stage, work.first_step, lambda trainer: self.do_round(trainer, work))

    def do_round(self, trainer: Any, work: Round | RoundKey) -> RoundReport | None:
        """Do the steps of a round with its stage's trainer, until the worker is told to stop."""
        drawn = self._stream.round(work) if isinstance(work, RoundKey) else work
        return train_round(trainer, self.begin(drawn), lambda: self._stopped)

    def begin(self, work: Round) -> Round:
        """This worker's part of a round: all of it."""
        return work

    def update(
        self, update: EmbeddingUpdate
    ) -> tuple[EmbeddingVersion, EmbeddingReport] | StageFailure | Accompanied | None:
        """Make the next version of W_embed; see `EmbeddingTrainer.apply`."""
        return self._attempt(EMBEDDING, update.first_step, lambda trainer: trainer.apply(update))

    def snapshot(self, stage: Stage) -> Snapshot | StageFailure | Accompanied | None:
        """A stage's state after the rounds that arrived before; a failure if its weights are not finite."""
        return self._attempt(stage, 0, lambda trainer: trainer.snapshot())

    def _accompanied(self, stage: Stage, do: Callable[[], Result]) -> Result | Accompanied:
        """The answer of a stage's work, and what came of it beside, if there is any."""
        beside = self._beside.setdefault(stage, Beside(stage.name))
        with at_work(beside):
            answer = do()
        left = beside.take()
        return Accompanied(answer, left) if left else answer

    def _attempt(
        self, stage: Stage, step: int, do: Callable[[Any], Result]
    ) -> Result | StageFailure | Accompanied | None:
        """Do something with a stage's trainer; see `_try`."""
        return self._accompanied(stage, lambda: self._try(stage, step, do))

    def _try(self, stage: Stage, step: int, do: Callable[[Any], Result]) -> Result | StageFailure | None:
        """Do something with a stage's trainer.

        After a failure the worker does not hold the stage any more, and answers further calls about it with None.
        """
        trainer = self._trainers.get(stage)
        if trainer is None:
            return None
        try:
            return do(trainer)
        except WORKER_ERRORS:
            raise
        except (Exception, SystemExit) as error:
            del self._trainers[stage]
            return StageFailure.of(stage, step, error)

    def stop(self) -> None:
        """Begin no further step. Rounds that were sent are answered with the steps that were done."""
        self._stopped = True
