"""The workers of a run, with the data that each needs.

All of them are plain classes, which tests use without Ray; `engines/ray/actors.py` makes actors of them.
"""

import os
import socket
import time

import ray
import torch

from noprop_dist.data.dataset import HeldOut, Labels
from noprop_dist.data.inputs import Inputs, MappedInputs
from noprop_dist.data.samples import ReadAhead, Samples
from noprop_dist.engines.core.commands import EVALUATOR
from noprop_dist.engines.stage_worker import StageWorker
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation, evaluate_checkpoint
from noprop_dist.inference.load import assemble_network
from noprop_dist.phases import process_began
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.batch_stream import Round
from noprop_dist.training.beside import Beside, at_work
from noprop_dist.training.device import keep_freed_memory, processor, start_computing
from noprop_dist.training.embedding import EmbeddingTrainer
from noprop_dist.training.messages import Accompanied, WorkerFacts
from noprop_dist.training.replicas import ALONE, OneReplica
from noprop_dist.training.setup import RunSetup
from noprop_dist.training.trainers import ClassifierTrainer

IMPORTED = time.time()


class RayWorker(StageWorker):
    """A worker that knows the node of the cluster that it is on."""

    def facts(self) -> WorkerFacts:
        """Where this worker is; its first reply says that it is ready."""
        return worker_facts(self._device)


class BlockWorker(RayWorker):
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


class ClassifierWorker(RayWorker):
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
            weights = self._directory.checkpoints.load_all(step, weights_alone=True)
            network = assemble_network(self._setup.plan, weights, self._device)
            figures = evaluate_checkpoint(network, self._setup.plan, self._held_out, step)
        left = self._beside.take()
        return Accompanied(figures, left) if left else figures


def worker_facts(device: torch.device) -> WorkerFacts:
    """Where this process runs."""
    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    where = socket.gethostname(), node, os.getpid(), str(device), processor(device)
    return WorkerFacts(*where, began=process_began(), imported=IMPORTED)
