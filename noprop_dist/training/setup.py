"""What follows from a configuration and its data: everything that both engines and the evaluator build."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noprop_dist.baseline.network import EndToEndNetwork
from noprop_dist.baseline.trainer import EndToEndTrainer
from noprop_dist.data.augmentation import Augmentation, build_augmentation
from noprop_dist.data.inputs import Inputs
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.embedding import onehot_embedding
from noprop_dist.diffusion.objective import denoising_weight
from noprop_dist.errors import UserError
from noprop_dist.inference.network import NoPropNetwork
from noprop_dist.models.build import build_network
from noprop_dist.models.classifier import LinearClassifier, RadialClassifier
from noprop_dist.random_streams import Purpose, stream_seed
from noprop_dist.stages import CLASSIFIER, EMBEDDING, NETWORK, Stage, block
from noprop_dist.storage.checkpoint_writer import CheckpointWriter
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot, to_tensors
from noprop_dist.torch_random import seeded_aside
from noprop_dist.training.batch_stream import BatchStream
from noprop_dist.training.device import start_computing
from noprop_dist.training.embedding import EmbeddingExchange, EmbeddingReplica, EmbeddingTable, EmbeddingTrainer
from noprop_dist.training.execution import execution_on
from noprop_dist.training.group_batch_norm import normalise_over_group
from noprop_dist.training.optimisation import Optimisation
from noprop_dist.training.replicas import ALONE, OneReplica
from noprop_dist.training.run_plan import RunPlan
from noprop_dist.training.trainers import BlockTrainer, ClassifierTrainer

Network = TypeVar("Network", bound=torch.nn.Module)


@dataclass(frozen=True)
class RunSetup(RunPlan):
    """What both engines and the evaluator build; small, and the same for every actor.

    Attributes:
        config: of the run.
        facts: of its data set.
        initial_embedding: where a learned W_embed begins, (m, d); None where that is of no interest (a trained run is
            looked at), or W_embed is one-hot.
    """

    initial_embedding: NDArray[np.float32] | None = None

    @cached_property
    def embedding(self) -> Tensor:
        """W_embed at the start of the run, (m, d) float32 on the CPU."""
        if not self.config.embedding.is_learned:
            return onehot_embedding(self.facts.classes)
        assert self.initial_embedding is not None
        return torch.from_numpy(self.initial_embedding.copy())

    def start_computing(self) -> torch.device:
        """Make this process ready to train; see `device.start_computing`."""
        engine = self.config.engine
        return start_computing(engine.device, engine.threads_per_worker, self.config.training.precision)

    def checkpoint_writer(self, directory: RunDirectory) -> CheckpointWriter:
        """What turns the stages' snapshots into checkpoints in the run directory."""
        return CheckpointWriter(
            directory.checkpoints,
            self.stages,
            self.config.blocks.count,
            self.checkpoint_steps,
            self.config.checkpoint.num_to_keep,
            directory.changes(),
            together_at=self.snapshot_steps if self.learns_embedding else None,
        )

    def batch_stream(self, labels: NDArray[np.int64]) -> BatchStream:
        """The batches of every stage, from the labels of the training split."""
        config = self.config
        return BatchStream(
            config.seed, labels, self.embedding.numpy(), self.input_alpha_bar, config.training.batch_size
        )

    def training_samples(self, inputs: Inputs, device: torch.device) -> Samples:
        """The training split on a device, with the augmentation that is asked for."""
        return Samples(inputs, self.facts, device, self.augmentation())

    def augmentation(self) -> Augmentation | None:
        """What training images go through; None where they are taken as they are.

        Raises:
            UserError: it needs images, and the samples are none.
        """
        samples, shape = self.facts.samples["train"], self.facts.input_shape
        return build_augmentation(self.config.data.augment, self.config.seed, samples, shape)

    def block_network(self, t: int) -> torch.nn.Module:
        """The untrained network of block t on the CPU, its weights a function of (seed, t)."""
        seed = stream_seed(self.config.seed, Purpose.INITIALISATION, t)
        return build_network(self.config.blocks.network_of(t), self.shapes, seed)

    def classifier(self) -> torch.nn.Module:
        """The untrained classifier on the CPU."""
        settings, d, m = self.config.classifier, self.embedding_dim, self.facts.classes
        number = CLASSIFIER.number(self.config.blocks.count)
        with seeded_aside(stream_seed(self.config.seed, Purpose.INITIALISATION, number)):
            return LinearClassifier(d, m) if settings.kind == "linear" else RadialClassifier(d, m, settings.sigma)

    def block_trainer(self, t: int, samples: Samples, device: torch.device, group: OneReplica = ALONE) -> BlockTrainer:
        """The trainer of block t (of one replica of it) at step 0, on samples that lie on the same device."""
        training, stage = self.config.training_of(t), block(t)
        network = self._for_training(self.block_network(t), device)
        network = normalise_over_group(network, group) if group.size > 1 else network
        return BlockTrainer(
            network,
            Optimisation(stage, network, training, training.learning_rate, self.total_steps, average_=group.average_),
            samples,
            self._replica(device),
            self.schedule.alpha_bar[t - 1],
            denoising_weight(self.schedule, t, self.config.objective.eta),
            self.config.seed,
            group,
            execution=execution_on(device, self.captures_steps_of(stage)),
            precision=training.precision,
        )

    def classifier_trainer(self, device: torch.device) -> ClassifierTrainer:
        """The trainer of the classifier at step 0."""
        config, classifier = self.config, self.classifier().to(device)
        rate = config.classifier.learning_rate
        optimisation = Optimisation(CLASSIFIER, classifier, config.training, rate, self.total_steps)
        execution = execution_on(device, self.captures_steps_of(CLASSIFIER))
        return ClassifierTrainer(classifier, optimisation, self._replica(device), self.schedule, execution)

    def end_to_end_network(self, embedding: Tensor) -> EndToEndNetwork:
        """The untrained baseline on the CPU: the blocks and the classifier that NoProp begins with, too.

        Args:
            embedding: W_embed that it begins with, (m, d).
        """
        blocks = [self.block_network(t) for t in self.config.blocks.trained()]
        return EndToEndNetwork(blocks, self.classifier(), embedding, self.config.embedding.is_learned)

    def end_to_end_trainer(
        self,
        samples: Samples,
        device: torch.device,
        group: OneReplica,
        wrap: Callable[[torch.nn.Module], torch.nn.Module],
    ) -> EndToEndTrainer:
        """The trainer of one process's share of every batch of the baseline, at step 0.

        Args:
            samples: of the training split, on the device.
            device: that it computes on.
            group: of the processes.
            wrap: makes a module whose gradients are averaged over all processes.
        """
        network, training = self._for_training(self.end_to_end_network(self.embedding), device), self.config.training
        own_rates = {"classifier": self.config.classifier.learning_rate}
        optimisation = Optimisation(NETWORK, network, training, training.learning_rate, self.total_steps, own_rates)
        seed, precision = self.config.seed, training.precision
        return EndToEndTrainer(wrap(network), optimisation, samples, group, seed, device, precision)

    def embedding_trainer(self) -> EmbeddingTrainer:
        """The trainer of a learned W_embed at step 0."""
        table, rate = EmbeddingTable(self.embedding), self.config.embedding.learning_rate
        versions = -(-self.total_steps // self.sync_steps)
        return EmbeddingTrainer(table, Optimisation(EMBEDDING, table, self.config.training, rate, versions))

    def embedding_exchange(self, snapshots: Mapping[Stage, Snapshot]) -> EmbeddingExchange | None:
        """The exchange of versions of W_embed from where the stages stand; None where W_embed is fixed.

        Args:
            snapshots: of all stages at the same step, or none.
        """
        if not self.learns_embedding:
            return None
        snapshot = snapshots.get(EMBEDDING)
        weights = self.embedding.numpy() if snapshot is None else snapshot.weights["weight"]
        first = 0 if snapshot is None else snapshot.step
        return EmbeddingExchange(weights, first, self.sync_steps, self.total_steps, self.config.blocks.count)

    def _for_training(self, network: Network, device: torch.device) -> Network:
        """On the device, laid out and compiled as is asked for; names of weights stay as they are."""
        network = self._on_device(network, device)
        if self.config.training.compile:
            network.compile()
        return network

    def _on_device(self, module: Network, device: torch.device) -> Network:
        """On the device, laid out in memory as is asked for."""
        channels_last = self.config.training.wants_channels_last(device.type == "cuda")
        return module.to(device).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def _replica(self, device: torch.device) -> EmbeddingReplica:
        return EmbeddingReplica(self.embedding.to(device), self.config.embedding.is_learned)

    def network(self, snapshots: Mapping[Stage, Snapshot], device: torch.device) -> NoPropNetwork:
        """The whole trained network of one checkpoint.

        Args:
            snapshots: of every stage.
            device: where it shall compute.

        Raises:
            UserError: snapshots of some blocks are missing (the run trained `blocks.only` some).
        """
        if self.end_to_end:
            weights = to_tensors(snapshots[NETWORK].weights)
            whole = self.end_to_end_network(weights["embedding"])
            whole.load_state_dict(weights)
            return self._on_device(whole.eval(), device).for_inference(self.schedule, self.facts, self.config.seed)
        every_block = range(1, self.config.blocks.count + 1)
        missing = [str(t) for t in every_block if block(t) not in snapshots]
        if missing:
            raise UserError(
                f"this run has no weights of block(s) {', '.join(missing)} (blocks.only), and a chain needs them all"
            )

        def trained(module: torch.nn.Module, stage: Stage) -> torch.nn.Module:
            module.load_state_dict(to_tensors(snapshots[stage].weights))
            return self._on_device(module.eval(), device)

        return NoPropNetwork(
            blocks=tuple(trained(self.block_network(t), block(t)) for t in every_block),
            classifier=trained(self.classifier(), CLASSIFIER),
            embedding=self._trained_embedding(snapshots).to(device),
            schedule=self.schedule,
            facts=self.facts,
            seed=self.config.seed,
        )

    def _trained_embedding(self, snapshots: Mapping[Stage, Snapshot]) -> Tensor:
        if not self.learns_embedding:
            return self.embedding
        return to_tensors(snapshots[EMBEDDING].weights)["weight"]
