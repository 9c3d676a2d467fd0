"""The sequential engine: Algorithm 1 of the paper in one process, one block after another, without Ray.

It is the oracle: the Ray engine's weights must have the same bits.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import torch

from noprop_dist.data.dataset import DataSet
from noprop_dist.errors import TrainingError
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation, evaluate_checkpoint
from noprop_dist.inference.load import assemble_network
from noprop_dist.inference.score import scores_of
from noprop_dist.records import CheckpointCompleted, News, RunEnded, StageFailed
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import explaining_misfits, must_fit
from noprop_dist.tracking.callback import Callback
from noprop_dist.tracking.host import END_SECONDS
from noprop_dist.tracking.trackers import callback_host, run_info
from noprop_dist.training.batch_stream import Round, RoundKey
from noprop_dist.training.beside import Beside, at_work
from noprop_dist.training.embedding import EmbeddingTrainer
from noprop_dist.training.finite import NonFiniteError
from noprop_dist.training.messages import RoundReport, StageFailure
from noprop_dist.training.progress import ProgressBoard, RunProgress
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
    callbacks: Sequence[Callback] = (),
) -> CheckpointEvaluation | None:
    """Train every block, then the classifier, from one checkpoint to the next.

    A directory that holds snapshots is continued from the newest of each stage.

    Args:
        setup: of the run.
        data: of the run.
        directory: of the run, already created; this process is its only writer.
        on_progress: told how far the run is, after every round.
        stopped: asked before every step. Once it returns True, every stage is snapshotted where it stands. With a
            learned W_embed no snapshots are taken then, and the run goes on from the last common ones.
        callbacks: told of every record, beside the trackers that the settings name.

    Returns:
        The figures of the last checkpoint; None if nothing was evaluated, or the run was stopped.

    Raises:
        TrainingError: the loss or weights of a stage are no longer finite, or its network failed; names it, the step
            and the cause.
    """
    run = _Run(setup, data, directory, on_progress, stopped, callbacks)
    with run.followed():
        for checkpoint in run.checkpoints_to_come():
            for end in run.versions_until(checkpoint):  # of W_embed; one, if it is fixed
                for trainer in run.trainers:  # Algorithm 1: for t = 1, …, T, and then p̂_out
                    with run.saving(trainer, end):
                        for batches in run.batches(trainer.stage, end):  # for each mini-batch, several in a round
                            run.trained(run.train(trainer, batches))
                run.make_next_version(end)
            if stopped():
                return None
            run.finish_checkpoint(checkpoint)
        return run.last_evaluation


class _Run:
    """What surrounds the algorithm: where each stage goes on, its snapshots, the versions of W_embed, the records.

    Attributes:
        trainers: of the blocks, then of the classifier, each where its stage goes on.
        last_evaluation: the last that this process made; None before that.
    """

    def __init__(
        self,
        setup: RunSetup,
        data: DataSet,
        directory: RunDirectory,
        on_progress: Callable[[RunProgress], None],
        stopped: Callable[[], bool],
        callbacks: Sequence[Callback],
    ) -> None:
        self._device = setup.start_computing()
        self._setup = setup = setup.on(self._device.type == "cuda")
        self._data, self._directory = data, directory
        self._on_progress, self._stopped = on_progress, stopped
        self._stream = setup.batch_stream(data.train.labels)
        samples = setup.training_samples(data.train.inputs, self._device)
        self.trainers: list[StageTrainer] = [
            *(setup.block_trainer(t, samples, self._device) for t in setup.config.blocks.trained()),
            setup.classifier_trainer(self._device),
        ]
        self._owner = setup.embedding_trainer() if setup.plan.learns_embedding else None
        self._checkpoints = setup.checkpoint_writer(directory)
        warnings = self._resume()
        self._host = callback_host(setup.plan, callbacks)
        self._log = RunLog(directory, self._done, self._host.record)
        assemble = partial(assemble_network, setup.plan, device=torch.device("cpu"))
        self._host.start(run_info(setup.plan, directory, data.held_out, assemble))
        self._board = ProgressBoard(self._done, setup.plan.total_steps, time.monotonic())
        self._beside: dict[Stage, Beside] = {}
        self._files: dict[str, bytes] = {}
        self.last_evaluation: CheckpointEvaluation | None = None
        self._scores = scores_of(setup.plan, self._log.figures)
        for warning in [*warnings, *self._log.warnings]:
            self._tell_news(warning)

    def _resume(self) -> list[str]:
        """Put every stage at its newest snapshot. Returns warnings of damaged ones."""
        snapshots, warnings = self._checkpoints.take_over()
        owners = [] if self._owner is None else [self._owner]
        trainers: list[StageTrainer | EmbeddingTrainer] = [*self.trainers, *owners]
        for trainer in trainers:
            if trainer.stage in snapshots:
                with explaining_misfits(warnings), must_fit(snapshots[trainer.stage]):
                    trainer.restore(snapshots[trainer.stage])
        self._done = {stage: snapshots[stage].step if stage in snapshots else 0 for stage in self._setup.plan.stages}
        self._exchange = self._setup.embedding_exchange(snapshots)
        return warnings

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Let the callbacks follow what is done within the `with`, and tell them how it ended."""
        plan = self._setup.plan
        error: str | None = None
        try:
            yield
        except BaseException as raised:
            error = f"{raised}" if isinstance(raised, TrainingError) else f"{type(raised).__name__}: {raised}"
            raise
        finally:
            stopped = self._stopped() and min(self._done.values()) < plan.total_steps
            self._log.add(RunEnded(step=min(self._done.values()), stopped=stopped, error=error))
            with suppress(OSError):  # if the storage fails, whoever wrote there before has told of it
                self._log.flush()
            told = self._host.close(self._setup.config.engine.grace_seconds if stopped else END_SECONDS)
            for line in told:
                self._tell_news(line)
            with suppress(OSError):
                self._log.flush()
            if told:
                self._on_progress(self._board.picture(time.monotonic()))

    def checkpoints_to_come(self) -> Iterator[int]:
        """Steps of the checkpoints, up to the last one or the one with which the run ends early."""
        for step in self._setup.plan.checkpoint_steps:
            if self._ends_early():
                return
            yield step

    def _ends_early(self) -> bool:
        """Return True if the run ends with the checkpoint that was measured last; nothing is left after it then."""
        stop = None if self._scores is None else self._scores.stop_step(self._checkpoints.complete_steps)
        if self._scores is None or stop is None or stop >= self._setup.plan.total_steps:
            return False
        num_to_keep = self._setup.config.checkpoint.num_to_keep
        self._checkpoints.end_at(stop, self._scores.best(num_to_keep))
        self._tell_news(self._scores.why_stopped(num_to_keep))
        return True

    def versions_until(self, checkpoint: int) -> Iterator[int]:
        """Ends of the versions of W_embed up to a checkpoint; the checkpoint alone if W_embed is fixed."""
        step = min(self._done.values())
        while self._exchange is not None and (step := self._exchange.end_of_version(step)) < checkpoint:
            yield step
        yield checkpoint

    def batches(self, stage: Stage, end: int) -> Iterator[Round]:
        """The batches of a stage from where it stands up to a step, in rounds; none after a stop."""
        while (first := self._done[stage]) < end and not self._stopped():
            version = None if self._exchange is None else self._exchange.at(first)
            steps = min(self._setup.plan.round_steps, end - first)
            yield self._stream.round(RoundKey(stage, first, steps, version))

    def trained(self, report: RoundReport | None) -> None:
        """Note what was done of a round; None if it was stopped before its first step."""
        if report is None:
            return
        self._done[report.stage] = report.steps_done
        if self._exchange is not None and report.embedding_gradient is not None:
            self._exchange.gather(report.stage, report.steps_done, report.embedding_gradient)
        self._log.add(report.record())
        self._tell(report.stage, report.loss)
        while self._files:
            self._directory.write_file(*self._files.popitem())

    def train(self, trainer: StageTrainer, batches: Round) -> RoundReport | None:
        """Do the steps of a round; None if it was stopped before the first.

        Raises:
            TrainingError: the loss became infinite or NaN, or the network failed.
        """
        with self._blamed(trainer.stage), self._heard(trainer.stage):
            return train_round(trainer, batches, self._stopped)

    @contextmanager
    def _heard(self, stage: Stage) -> Iterator[None]:
        """Write down what a stage's network prints within the `with`. People see it in the terminal, too."""
        beside = self._beside.setdefault(stage, Beside(stage.name))
        try:
            with at_work(beside):
                yield
        finally:
            left = beside.take()
            for line in left.lines:
                self._log.add(News(text=line))
            self._files |= left.files

    @contextmanager
    def _blamed(self, stage: Stage) -> Iterator[None]:
        """Make a `TrainingError` of whatever a stage raises: its network may be a user's."""
        try:
            yield
        except (Exception, SystemExit) as error:
            failure = StageFailure.of(stage, self._done[stage], error)
            self._log.add(StageFailed(stage=stage, step=failure.step, cause=failure.cause, trace=failure.trace))
            with suppress(OSError):
                self._log.flush()
            name = "W_embed" if stage == EMBEDDING else stage.name
            cause = error if isinstance(error, NonFiniteError) else f"{failure.cause}, after {self._done[stage]} steps"
            raise TrainingError(f"{name} was stopped: {cause}") from error

    @contextmanager
    def saving(self, trainer: StageTrainer | EmbeddingTrainer, end: int) -> Iterator[None]:
        """Snapshot a stage after what is done within the `with`, if it stands at a checkpoint or was stopped.

        Raises:
            TrainingError: its loss or weights became infinite or NaN.
        """
        stage = trainer.stage
        begun = self._done[stage]
        yield
        # With a learned W_embed, a stage cannot go on from a step that the others have no snapshot of.
        wanted = end in self._setup.plan.checkpoint_steps or (self._stopped() and self._exchange is None)
        if wanted and self._done[stage] > begun:
            self._log.flush()  # no snapshot without the records of the steps that lead to it
            with self._blamed(stage):
                snapshot = trainer.snapshot()
            self._checkpoints.add(snapshot)

    def make_next_version(self, end: int) -> None:
        """Make the version of W_embed that follows at step `end`, if W_embed is learned."""
        if self._owner is None or self._exchange is None or self._done[EMBEDDING] >= end:
            return
        update = self._exchange.update_at(end - 1)
        if update is None:
            return  # stopped on the way
        with self.saving(self._owner, end):
            with self._blamed(EMBEDDING):
                version, report = self._owner.apply(update)
            self._exchange.publish(version)
            self._exchange.forget_before(end)
            self._done[EMBEDDING] = end
            self._log.add(report.record())
            self._tell(EMBEDDING, None)

    def finish_checkpoint(self, checkpoint: int) -> None:
        """Measure a checkpoint that is whole, unless an earlier process did; delete what is superseded."""
        plan, whole = self._setup.plan, checkpoint in self._checkpoints.complete_steps
        if whole and not self._log.completed(checkpoint):
            self._log.add(CheckpointCompleted(step=checkpoint))
        if whole and plan.evaluates and not self._log.evaluated(checkpoint, final=checkpoint == plan.total_steps):
            self._measure(checkpoint)
        scores, num_to_keep = self._scores, self._setup.config.checkpoint.num_to_keep
        self._checkpoints.prune(checkpoint, None if scores is None else scores.best(num_to_keep))

    def _measure(self, checkpoint: int) -> None:
        plan = self._setup.plan
        network = assemble_network(
            plan, self._directory.checkpoints.load_all(checkpoint, weights_alone=True), self._device
        )
        figures = evaluate_checkpoint(network, plan, self._data.held_out, checkpoint)
        self.last_evaluation = figures
        for record in figures.records():
            self._log.add(record)
        if self._scores is not None:
            self._scores.add(figures.records())
        self._log.flush()
        self._board.news.tell(figures.summary())
        self._on_progress(self._board.picture(time.monotonic()))

    def _tell_news(self, line: str) -> None:
        self._board.news.tell(line)
        self._log.add(News(text=line))

    def _tell(self, stage: Stage, loss: float | None) -> None:
        for line in self._host.news():
            self._tell_news(line)
        self._board.reported(stage, self._done[stage], loss, time.monotonic())
        self._on_progress(self._board.picture(time.monotonic()))
