"""What follows from a configuration and its data: everything that both engines and the evaluator build."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noprop_dist.configuration.settings import RunConfig
from noprop_dist.data.augmentation import build_augmentation
from noprop_dist.data.dataset import DataFacts, DataSet, Inputs
from noprop_dist.data.load import load_data
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.embedding import onehot_embedding
from noprop_dist.diffusion.objective import denoising_weight
from noprop_dist.diffusion.schedule import Schedule
from noprop_dist.errors import UserError
from noprop_dist.inference.network import NoPropNetwork
from noprop_dist.models.build import build_network, check_network
from noprop_dist.models.classifier import linear_classifier
from noprop_dist.models.shapes import Shapes
from noprop_dist.random_streams import Purpose, stream_seed
from noprop_dist.storage.checkpoints import CheckpointWriter
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot, to_tensors
from noprop_dist.training.batch_stream import BatchStream
from noprop_dist.training.optimisation import Optimisation
from noprop_dist.training.trainers import BlockTrainer, ClassifierTrainer


@dataclass(frozen=True)
class RunSetup:
    """A run's configuration together with the facts of its data; small, and the same for every actor.

    Attributes:
        config: of the run.
        facts: of its data set.
    """

    config: RunConfig
    facts: DataFacts

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule of T blocks."""
        return self.config.noise_schedule()

    @cached_property
    def embedding(self) -> Tensor:
        """W_embed, (m, d) float32 on the CPU."""
        return onehot_embedding(self.facts.classes)

    @property
    def shapes(self) -> Shapes:
        """The sizes that a block's network has to fit."""
        return Shapes(self.facts.input_shape, self.facts.classes, self.embedding.shape[1])

    @property
    def classifier_stage(self) -> int:
        """T + 1: the classifier comes after the last block."""
        return self.config.blocks.count + 1

    @property
    def stages(self) -> tuple[int, ...]:
        """The stages that are trained: blocks, then the classifier."""
        return (*self.config.blocks.trained(), self.classifier_stage)

    def stage_name(self, stage: int) -> str:
        """What a person calls a stage: 'block 3' or 'classifier'."""
        return "classifier" if stage == self.classifier_stage else f"block {stage}"

    def file_names(self) -> dict[int, str]:
        """What the files of each stage are called: block-03, classifier."""
        width = max(2, len(str(self.config.blocks.count)))
        blocks = {block: f"block-{block:0{width}d}" for block in self.config.blocks.trained()}
        return {**blocks, self.classifier_stage: "classifier"}

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training split."""
        return self.facts.samples["train"] // self.config.training.batch_size

    @property
    def total_steps(self) -> int:
        """Steps of every stage."""
        return self.config.training.steps(self.facts.samples["train"])

    @property
    def evaluates(self) -> bool:
        """Whether checkpoints are evaluated: a chain needs all of its blocks."""
        return self.config.blocks.only is None and self.config.evaluation.samples > 0

    @cached_property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """The steps whose snapshots of all stages make a checkpoint; the last is the end of the run."""
        every = self.config.checkpoint.steps_between(self.total_steps, self.steps_per_epoch)
        return (*range(every, self.total_steps, every), self.total_steps)

    @cached_property
    def snapshot_steps(self) -> tuple[int, ...]:
        """The steps at which every stage is snapshotted, rising: those of checkpoints, and some between."""
        every = self.config.checkpoint.snapshot_every_steps
        return tuple(sorted({*self.checkpoint_steps, *range(every, self.total_steps, every)}))

    def checkpoint_writer(self, directory: RunDirectory) -> CheckpointWriter:
        """What turns the stages' snapshots into checkpoints in the run directory."""
        return CheckpointWriter(
            directory.checkpoints,
            self.file_names(),
            self.checkpoint_steps,
            self.config.checkpoint.num_to_keep,
            {"changes": directory.changes()},
        )

    def batch_stream(self, labels: NDArray[np.int64]) -> BatchStream:
        """The batches of every stage, from the labels of the training split."""
        config = self.config
        return BatchStream(config.seed, labels, self.embedding.numpy(), self.schedule, config.training.batch_size)

    def training_samples(self, inputs: Inputs, device: torch.device) -> Samples:
        """The training split on a device, with the augmentation that is asked for."""
        augmentation = build_augmentation(self.config.data.augment, self.config.seed, self.facts.input_shape)
        return Samples(inputs, self.facts, device, augmentation)

    def block_network(self, block: int) -> torch.nn.Module:
        """Block's untrained network on the CPU, its weights a function of (seed, block)."""
        seed = stream_seed(self.config.seed, Purpose.INITIALISATION, block)
        return build_network(self.config.blocks.network_of(block), self.shapes, seed)

    def classifier(self) -> torch.nn.Module:
        """The untrained classifier on the CPU."""
        seed = stream_seed(self.config.seed, Purpose.INITIALISATION, self.classifier_stage)
        return linear_classifier(self.embedding.shape[1], self.facts.classes, seed)

    def block_trainer(self, block: int, samples: Samples, device: torch.device) -> BlockTrainer:
        """The trainer of one block at step 0, on samples that lie on the same device."""
        training = self.config.training_of(block)
        network = self.block_network(block).to(device)
        return BlockTrainer(
            network,
            Optimisation(block, network, training, training.learning_rate, self.total_steps),
            samples,
            self.embedding.to(device),
            denoising_weight(self.schedule, block, self.config.objective.eta),
            self.config.seed,
        )

    def classifier_trainer(self, device: torch.device) -> ClassifierTrainer:
        """The trainer of the classifier at step 0."""
        config, classifier = self.config, self.classifier().to(device)
        optimisation = Optimisation(
            self.classifier_stage,
            classifier,
            config.training,
            config.classifier.learning_rate,
            self.total_steps,
        )
        return ClassifierTrainer(classifier, optimisation, device)

    def network(self, snapshots: Mapping[int, Snapshot], device: torch.device) -> NoPropNetwork:
        """The whole trained network of one checkpoint.

        Args:
            snapshots: of every block and the classifier, by stage.
            device: where it shall compute.

        Raises:
            UserError: snapshots of some blocks are missing (the run trained `blocks.only` some).
        """
        every_block = range(1, self.config.blocks.count + 1)
        missing = [str(block) for block in every_block if block not in snapshots]
        if missing:
            raise UserError(
                f"this run has no weights of block(s) {', '.join(missing)} (blocks.only), and a chain needs them all"
            )

        def trained(module: torch.nn.Module, stage: int) -> torch.nn.Module:
            module.load_state_dict(to_tensors(snapshots[stage].weights))
            return module.eval().to(device)

        return NoPropNetwork(
            blocks=tuple(trained(self.block_network(block), block) for block in every_block),
            classifier=trained(self.classifier(), self.classifier_stage),
            embedding=self.embedding.to(device),
            schedule=self.schedule,
            facts=self.facts,
            seed=self.config.seed,
        )


def prepare(config: RunConfig) -> tuple[RunSetup, DataSet]:
    """Load the data and check that configuration, data and networks fit each other.

    Raises:
        UserError: they do not; nothing has been written or started.
    """
    data = load_data(config.data)
    setup = RunSetup(config, data.facts)
    if setup.steps_per_epoch < 1:
        raise UserError(
            f"training.batch_size={config.training.batch_size} is larger than the training set of "
            f"{len(data.train)} samples"
        )
    build_augmentation(config.data.augment, config.seed, data.facts.input_shape)
    checked: list[object] = []
    for block in config.blocks.trained():
        settings = config.blocks.network_of(block)
        if settings not in checked:
            check_network(setup.block_network(block), setup.shapes, f"blocks.network of block {block}")
            checked.append(settings)
    return setup, data
