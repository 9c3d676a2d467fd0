"""The actor that trains blocks: a thin shell around their trainers."""

import os
import socket

import torch

from noprop_dist.data.dataset import Inputs
from noprop_dist.distributed.messages import StageFailure, WorkerFacts
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import Round
from noprop_dist.training.device import start_computing
from noprop_dist.training.progress import RoundReport
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import RunSetup
from noprop_dist.training.trainers import StageTrainer


class BlockWorker:
    """One or several blocks on one device; rounds are done in the order in which they arrive.

    Args:
        setup: of the run.
        inputs: of the training split, mapped from the object store.
        blocks: that live here.
    """

    def __init__(self, setup: RunSetup, inputs: Inputs, blocks: tuple[int, ...]) -> None:
        engine = setup.config.engine
        device = start_computing(engine.device, engine.threads_per_worker)
        samples = setup.training_samples(inputs, device)
        self._device = device
        self._trainers = {block: setup.block_trainer(block, samples, device) for block in blocks}

    def facts(self) -> WorkerFacts:
        """Where this worker is; its first reply says that it is ready."""
        return worker_facts(self._device)

    def train(self, work: Round) -> RoundReport | StageFailure:
        """Do all steps of a round."""
        return train_or_fail(self._trainers[work.stage], work)

    def snapshot(self, block: int) -> Snapshot:
        """The block's state after the rounds that arrived before."""
        return self._trainers[block].snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Bring a block to a snapshot."""
        self._trainers[snapshot.stage].restore(snapshot)


def worker_facts(device: torch.device) -> WorkerFacts:
    """Where this process runs."""
    return WorkerFacts(socket.gethostname(), os.getpid(), str(device))


def train_or_fail(trainer: StageTrainer, work: Round) -> RoundReport | StageFailure:
    """A round's report, or the error that stopped it, as a value."""
    try:
        return train_round(trainer, work)
    except Exception as error:  # whatever a network or a device may raise belongs to this stage alone
        return StageFailure.of(work.stage, work.first_step, error)
