"""The steps of one round, and the report of them."""

import math
import time
from collections.abc import Callable

import torch

from noprop_dist.training.batch_stream import Round
from noprop_dist.training.device import peak_memory_bytes
from noprop_dist.training.finite import check_losses
from noprop_dist.training.messages import RoundReport
from noprop_dist.training.trainers import StageTrainer


def train_round(trainer: StageTrainer, work: Round, stopped: Callable[[], bool] = lambda: False) -> RoundReport | None:
    """Train on every batch of a round. Losses stay on the device until the last step is done.

    Args:
        trainer: of the round's stage, exactly at its first step.
        work: the round.
        stopped: asked before every step; once it returns True, no further step is begun.

    Returns:
        A report of the steps that were done; None if there were none.

    Raises:
        NonFiniteError: a loss or a gradient was not finite; the trainer cannot be used any more.
    """
    started = time.perf_counter()
    copy = trainer.embedding
    if copy is not None and work.embedding is not None:
        copy.take(work.embedding)
    losses = []
    for inputs in trainer.inputs(work):
        if stopped():
            break
        losses.append(trainer.step(inputs))
    if not losses:
        return None
    values = trainer.group.mean(torch.stack(losses))
    loss, error, gradient_norm = values.mean(dim=0).tolist()
    if not math.isfinite(loss + error + gradient_norm):
        check_losses(work.first_step, values.tolist())
    seconds = time.perf_counter() - started
    gathered = None if copy is None else copy.gathered()
    if gathered is not None and trainer.group.size > 1:
        gathered = trainer.group.mean(torch.from_numpy(gathered).to(values.device)).cpu().numpy()
    return RoundReport(
        work.stage,
        work.first_step,
        len(losses),
        loss,
        error,
        gradient_norm,
        seconds,
        peak_memory_bytes(values.device),
        gathered,
    )
