"""The sequential engine: Algorithm 1 of the paper in one process, one block after another, without Ray.

It is the oracle: the Ray engine's weights must have the same bits.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from noprop_dist.data.dataset import DataSet
from noprop_dist.errors import TrainingError
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation, evaluate_checkpoint
from noprop_dist.training.finite import NonFiniteError
from noprop_dist.training.progress import RunProgress
from noprop_dist.training.rounds import train_round
from noprop_dist.training.run_log import RunLog
from noprop_dist.training.setup import RunSetup
from noprop_dist.training.trainers import StageTrainer


def train_sequentially(
    setup: RunSetup,
    data: DataSet,
    directory: RunDirectory,
    on_progress: Callable[[RunProgress], None],
    stopped: Callable[[], bool] = lambda: False,
) -> CheckpointEvaluation | None:
    """Train every block, then the classifier, from one checkpoint to the next.

    A directory that holds snapshots is continued from the newest of each stage.

    Args:
        setup: of the run.
        data: of the run.
        directory: of the run, already created; this process is its only writer.
        on_progress: told how far the run is, after every round.
        stopped: asked before every step; once it says yes, every stage is snapshotted where it stands (where W_embed
            is learned, the run goes on from the last step that all stages have a snapshot of).

    Returns:
        The figures of the last checkpoint; None where nothing is evaluated.

    Raises:
        TrainingError: the loss or weights of a stage are no longer finite; names it, the step and the likely cause.
    """
    return _Run(setup, data, directory, on_progress, stopped).train()


class _Run:
    def __init__(
        self,
        setup: RunSetup,
        data: DataSet,
        directory: RunDirectory,
        on_progress: Callable[[RunProgress], None],
        stopped: Callable[[], bool],
    ) -> None:
        config = setup.config
        self._device = setup.start_computing()
        self._setup = setup = replace(setup, on_gpu=self._device.type == "cuda")
        self._data, self._directory = data, directory
        self._on_progress, self._stopped = on_progress, stopped
        self._stream = setup.batch_stream(data.train.labels)
        samples = setup.training_samples(data.train.inputs, self._device)
        self._trainers: dict[int, StageTrainer] = {
            t: setup.block_trainer(t, samples, self._device) for t in config.blocks.trained()
        } | {setup.classifier_stage: setup.classifier_trainer(self._device)}
        self._owner = None if setup.embedding_stage is None else setup.embedding_trainer()
        self._checkpoints = setup.checkpoint_writer(directory)
        self._done = dict.fromkeys(setup.stages, 0)
        snapshots, warnings = self._checkpoints.take_over()
        for stage, snapshot in snapshots.items():
            trainer = self._owner if stage == setup.embedding_stage else self._trainers[stage]
            assert trainer is not None
            trainer.restore(snapshot)
            self._done[stage] = snapshot.step
        self._exchange = setup.embedding_exchange(snapshots)
        self._log = RunLog(setup, directory, self._done)
        self._log.news(*warnings)

    def train(self) -> CheckpointEvaluation | None:
        evaluation = None
        for checkpoint in self._setup.checkpoint_steps:
            for last in self._versions_until(checkpoint):
                for stage, trainer in self._trainers.items():  # Algorithm 1: for t = 1 … T, then p̂_out
                    self._train_until(last, stage, trainer, save=last == checkpoint)
                self._update_embedding(last, save=last == checkpoint)
            if self._stopped():
                return None
            complete = checkpoint in self._checkpoints.complete_steps
            if self._setup.evaluates and complete and not self._log.evaluated(checkpoint):
                evaluation = self._measure(checkpoint)
            self._checkpoints.prune(up_to=checkpoint)
        return evaluation

    def _versions_until(self, checkpoint: int) -> Iterator[int]:
        """Ends of the versions of W_embed up to a checkpoint; the checkpoint alone where W_embed is fixed."""
        step = min(self._done.values())
        while self._exchange is not None and (step := self._exchange.end_of_version(step)) < checkpoint:
            yield step
        yield checkpoint

    def _train_until(self, last: int, stage: int, trainer: StageTrainer, save: bool) -> None:
        begun, round_steps = self._done[stage], self._setup.round_steps
        try:
            for first in range(begun, last, round_steps):  # for each mini-batch
                self._train_round(trainer, first, min(round_steps, last - first))
            if self._done[stage] > begun and (save or (self._stopped() and self._exchange is None)):
                self._log.flush()  # no snapshot without the records of the steps that lead to it
                self._checkpoints.add(trainer.snapshot())
        except NonFiniteError as error:
            raise TrainingError(f"{self._setup.stage_name(stage)} was stopped: {error}") from error

    def _train_round(self, trainer: StageTrainer, first: int, steps: int) -> None:
        version = None if self._exchange is None else self._exchange.at(first)
        key = RoundKey(trainer.stage, first, steps, version)
        report = train_round(trainer, self._stream.round(key), self._stopped)
        if report is None:
            return
        self._done[trainer.stage] = report.steps_done
        if self._exchange is not None and report.embedding_gradient is not None:
            self._exchange.gather(trainer.stage, report.steps_done, report.embedding_gradient)
        self._log.round(report)
        self._on_progress(self._log.board.picture())

    def _update_embedding(self, last: int, save: bool) -> None:
        if self._owner is None or self._exchange is None or self._done[self._owner.stage] >= last:
            return
        update = self._exchange.update_at(last - 1)
        if update is None:
            return  # stopped on the way
        try:
            version, report = self._owner.apply(update)
        except NonFiniteError as error:
            raise TrainingError(f"W_embed was stopped: {error}") from error
        self._exchange.publish(version)
        self._exchange.forget_before(last)
        self._done[self._owner.stage] = last
        self._log.round(report)
        if save:
            self._log.flush()
            self._checkpoints.add(self._owner.snapshot())

    def _measure(self, checkpoint: int) -> CheckpointEvaluation:
        figures = evaluate_checkpoint(self._setup, self._data.held_out, self._directory, checkpoint, self._device)
        self._log.evaluation(figures)
        self._log.flush()
        self._on_progress(self._log.board.picture())
        return figures
