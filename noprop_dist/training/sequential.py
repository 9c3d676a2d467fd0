"""The sequential engine: Algorithm 1 of the paper in one process, one block after another, without Ray.

It is the oracle: the Ray engine's weights must have the same bits.
"""

from collections.abc import Callable

from noprop_dist.data.dataset import DataSet
from noprop_dist.storage.checkpoints import CheckpointWriter
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation, evaluate_checkpoint
from noprop_dist.training.device import start_computing
from noprop_dist.training.progress import RunProgress
from noprop_dist.training.rounds import train_round
from noprop_dist.training.run_log import RunLog
from noprop_dist.training.setup import RunSetup
from noprop_dist.training.trainers import StageTrainer


def train_sequentially(
    setup: RunSetup, data: DataSet, directory: RunDirectory, on_progress: Callable[[RunProgress], None]
) -> CheckpointEvaluation | None:
    """Train every block, then the classifier, from one checkpoint to the next.

    A directory that holds a checkpoint is continued from its last one.

    Args:
        setup: of the run.
        data: of the run.
        directory: of the run, already created.
        on_progress: told how far the run is, after every round.

    Returns:
        The figures of the last checkpoint; None where nothing is evaluated.
    """
    config = setup.config
    device = start_computing(config.engine.device, config.engine.threads_per_worker)
    stream = setup.batch_stream(data.train.labels)
    samples = setup.training_samples(data.train.inputs, device)
    trainers: dict[int, StageTrainer] = {
        t: setup.block_trainer(t, samples, device) for t in config.blocks.trained()
    } | {setup.classifier_stage: setup.classifier_trainer(device)}
    done = 0
    for stage, snapshot in directory.last_snapshots().items():
        trainers[stage].restore(snapshot)
        done = snapshot.step
    log = RunLog(setup, directory, done)
    checkpoints = CheckpointWriter(directory, setup.file_names(), config.checkpoint.num_to_keep)
    evaluation = None

    for checkpoint in (step for step in setup.checkpoint_steps if step > done):
        for stage, trainer in trainers.items():  # Algorithm 1: for t = 1 … T, then p̂_out
            for first in range(done, checkpoint, config.engine.round_steps):  # for each mini-batch
                steps = min(config.engine.round_steps, checkpoint - first)
                log.round(train_round(trainer, stream.round(stage, first, steps)))
                on_progress(log.board.picture())
            log.flush()  # no checkpoint without the records of the steps that lead to it
            checkpoints.add(trainer.snapshot())
        if setup.evaluates:
            evaluation = evaluate_checkpoint(setup, data.held_out, directory, checkpoint, device)
            log.evaluation(evaluation)
            on_progress(log.board.picture())
        checkpoints.prune(up_to=checkpoint)
        done = checkpoint
    log.flush()
    return evaluation
