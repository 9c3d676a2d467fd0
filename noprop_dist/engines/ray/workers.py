"""The workers: they hold stages and do the rounds that the coordinator sends.

All of them are plain classes, which tests use without Ray; `engines/ray/actors.py` makes actors of them.
"""

import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import ray
import torch

from noprop_dist.data.dataset import HeldOut, Labels
from noprop_dist.data.inputs import Inputs, MappedInputs
from noprop_dist.data.samples import ReadAhead, Samples
from noprop_dist.engines.core.commands import EVALUATOR
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation, evaluate_checkpoint
from noprop_dist.inference.load import assemble_network
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import BatchStream, Round, RoundKey
from noprop_dist.training.beside import Beside, at_work
from noprop_dist.training.device import keep_freed_memory, start_computing, start_thread
from noprop_dist.training.embedding import EmbeddingTrainer, EmbeddingUpdate, EmbeddingVersion
from noprop_dist.training.messages import Accompanied, EmbeddingReport, RoundReport, StageFailure, WorkerFacts
from noprop_dist.training.replicas import ALONE, GroupLostError, OneReplica
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import RunSetup
from noprop_dist.training.trainers import ClassifierTrainer

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

    def facts(self) -> WorkerFacts:
        """Where this worker is; its first reply says that it is ready."""
        return worker_facts(self._device)

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

        def do(trainer: Any) -> RoundReport | None:
            drawn = self._stream.round(work) if isinstance(work, RoundKey) else work
            return train_round(trainer, self.begin(drawn), lambda: self._stopped)

        return self._attempt(work.stage, work.first_step, do)

    def begin(self, work: Round) -> Round:
        """This worker's part of a round: all of it."""
        return work

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


class BlockWorker(StageWorker):
    """Trains one or several blocks on one device.

    Args:
        setup: of the run.
        inputs: of the training split, mapped from the object store.
        labels: of the same samples.
        group: of replicas, of which this worker is one.
    """

    def __init__(self, setup: RunSetup, inputs: Inputs, labels: Labels, group: OneReplica = ALONE) -> None:
        device = setup.start_computing()
        augmentation = setup.plan.augmentation()
        slow = isinstance(inputs, MappedInputs) or augmentation is not None
        samples = (ReadAhead if slow else Samples)(inputs, setup.plan.facts, device, augmentation)
        self._group = group
        stream = setup.batch_stream(labels)
        super().__init__(setup, stream, device, lambda stage: setup.block_trainer(stage.index, samples, device, group))

    def begin(self, work: Round) -> Round:
        """This worker's share of a round."""
        return self._group.share(work)


class ClassifierWorker(StageWorker):
    """Trains the classifier on z_T, and owns W_embed if that is learned; it needs no images.

    Args:
        setup: of the run.
        labels: of the training split.
    """

    def __init__(self, setup: RunSetup, labels: Labels) -> None:
        device = setup.start_computing()

        def build(stage: Stage) -> ClassifierTrainer | EmbeddingTrainer:
            return setup.embedding_trainer() if stage == EMBEDDING else setup.classifier_trainer(device)

        super().__init__(setup, setup.batch_stream(labels), device, build)

    def update(
        self, update: EmbeddingUpdate
    ) -> tuple[EmbeddingVersion, EmbeddingReport] | StageFailure | Accompanied | None:
        """Make the next version of W_embed; see `EmbeddingTrainer.apply`."""
        return self._attempt(EMBEDDING, update.first_step, lambda trainer: trainer.apply(update))


class Evaluator:
    """Reads checkpoints from the run directory, which its node has to reach.

    Args:
        setup: of the run.
        held_out: validation and test split, mapped from the object store.
        directory: of the run.
    """

    def __init__(self, setup: RunSetup, held_out: HeldOut, directory: str) -> None:
        engine = setup.config.engine
        self._device = start_computing(engine.device, engine.threads_per_worker)
        if self._device.type == "cpu":
            keep_freed_memory(of_any_size=True)
        self._setup = setup
        self._held_out = held_out
        self._directory = RunDirectory(directory)
        self._beside = Beside(EVALUATOR.name)

    def facts(self) -> WorkerFacts:
        """Where this evaluator is; its first reply says that it is ready."""
        return worker_facts(self._device)

    def ping(self) -> None:
        """Answer: the process is there."""

    def evaluate(self, step: int) -> CheckpointEvaluation | Accompanied:
        """Measure the checkpoint of `step`; at the end of a run the workers' cores are free to help."""
        if step == self._setup.plan.total_steps:
            torch.set_num_threads(os.cpu_count() or 1)
        with at_work(self._beside):
            network = assemble_network(self._setup.plan, self._directory.checkpoints.load_all(step), self._device)
            figures = evaluate_checkpoint(network, self._setup.plan, self._held_out, step)
        left = self._beside.take()
        return Accompanied(figures, left) if left else figures


def worker_facts(device: torch.device) -> WorkerFacts:
    """Where this process runs."""
    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    return WorkerFacts(socket.gethostname(), node, os.getpid(), str(device))
