"""The steps of one round, and the report of them."""

import time

import torch

from noprop_dist.training.batch_stream import Round
from noprop_dist.training.progress import RoundReport
from noprop_dist.training.trainers import StageTrainer


def train_round(trainer: StageTrainer, work: Round) -> RoundReport:
    """Train on every batch of a round; losses stay on the device until the last step is done."""
    started = time.perf_counter()
    losses = [trainer.step(batch) for batch in work.batches()]
    means = torch.stack([torch.stack([each.loss, each.error, each.gradient_norm]) for each in losses]).mean(dim=0)
    loss, error, gradient_norm = means.tolist()
    seconds = time.perf_counter() - started
    return RoundReport(work.stage, work.first_step, len(losses), loss, error, gradient_norm, seconds)
