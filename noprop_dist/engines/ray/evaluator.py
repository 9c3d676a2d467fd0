"""The actor that measures checkpoints on held-out data while training goes on."""

import os

import torch

from noprop_dist.data.dataset import HeldOut
from noprop_dist.engines.ray.workers import worker_facts
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation, evaluate_checkpoint
from noprop_dist.inference.load import assemble
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.device import start_computing
from noprop_dist.training.messages import WorkerFacts
from noprop_dist.training.setup import RunSetup


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
        self._setup = setup
        self._held_out = held_out
        self._directory = RunDirectory(directory)

    def facts(self) -> WorkerFacts:
        """Where this evaluator is; its first reply says that it is ready."""
        return worker_facts(self._device)

    def evaluate(self, step: int) -> CheckpointEvaluation:
        """Measure the checkpoint of `step`; at the end of a run the workers' cores are free to help."""
        if step == self._setup.plan.total_steps:
            torch.set_num_threads(os.cpu_count() or 1)
        network = assemble(self._setup.plan, self._directory.checkpoints.load_all(step), self._device)
        return evaluate_checkpoint(network, self._setup.plan, self._held_out, step)
