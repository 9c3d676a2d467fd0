"""The sequential engine: Algorithm 1 of the paper in one process, one block after another, without Ray.

It is the oracle: the Ray engine's weights must have the same bits.
"""

from collections.abc import Callable

from noprop_dist.data.dataset import DataSet
from noprop_dist.errors import TrainingError
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation, evaluate_checkpoint
from noprop_dist.training.device import start_computing
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
        stopped: asked before every step; once it says yes, every stage is snapshotted where it stands.

    Returns:
        The figures of the last checkpoint; None where nothing is evaluated.

    Raises:
        TrainingError: the loss or weights of a stage are no longer finite; names it, the step and the likely cause.
    """
    config = setup.config
    device = start_computing(config.engine.device, config.engine.threads_per_worker)
    stream = setup.batch_stream(data.train.labels)
    samples = setup.training_samples(data.train.inputs, device)
    trainers: dict[int, StageTrainer] = {
        t: setup.block_trainer(t, samples, device) for t in config.blocks.trained()
    } | {setup.classifier_stage: setup.classifier_trainer(device)}
    checkpoints = setup.checkpoint_writer(directory)
    done = dict.fromkeys(trainers, 0)
    snapshots, warnings = checkpoints.take_over()
    for stage, snapshot in snapshots.items():
        trainers[stage].restore(snapshot)
        done[stage] = snapshot.step
    log = RunLog(setup, directory, done)
    log.news(*warnings)
    evaluation = None

    def train_until(checkpoint: int, stage: int, trainer: StageTrainer) -> None:
        for first in range(done[stage], checkpoint, config.engine.round_steps):  # for each mini-batch
            steps = min(config.engine.round_steps, checkpoint - first)
            report = train_round(trainer, stream.round(stage, first, steps), stopped)
            if report is None:
                return
            done[stage] = report.steps_done
            log.round(report)
            on_progress(log.board.picture())

    def measure(checkpoint: int) -> CheckpointEvaluation:
        figures = evaluate_checkpoint(setup, data.held_out, directory, checkpoint, device)
        log.evaluation(figures)
        log.flush()
        on_progress(log.board.picture())
        return figures

    for checkpoint in setup.checkpoint_steps:
        for stage, trainer in trainers.items():  # Algorithm 1: for t = 1 … T, then p̂_out
            begun = done[stage]
            try:
                train_until(checkpoint, stage, trainer)
                log.flush()  # no snapshot without the records of the steps that lead to it
                if done[stage] > begun:
                    checkpoints.add(trainer.snapshot())
            except NonFiniteError as error:
                raise TrainingError(f"{setup.stage_name(stage)} was stopped: {error}") from error
        if stopped():
            return None
        if setup.evaluates and checkpoint in checkpoints.complete_steps and not log.evaluated(checkpoint):
            evaluation = measure(checkpoint)
        checkpoints.prune(up_to=checkpoint)
    return evaluation
