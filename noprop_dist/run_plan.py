"""What follows from a configuration and the facts of its data: stages, sizes, steps, and untrained networks."""

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TypeVar

import torch
from torch import nn

from noprop_dist.config.schema import CustomNetwork, RunConfig
from noprop_dist.data.augmentation import Augmentation, build_augmentation
from noprop_dist.data.dataset import DataFacts
from noprop_dist.diffusion.noise_range import NoiseRange
from noprop_dist.diffusion.schedule import Schedule
from noprop_dist.models.build import UNDRAWN, build_classifier, build_network, undrawn_network
from noprop_dist.models.custom import NetworkFactory, Source, source_of
from noprop_dist.models.shapes import Shapes
from noprop_dist.random_streams import Purpose, stream_seed
from noprop_dist.stages import CLASSIFIER, EMBEDDING, NETWORK, Stage, block

CAPTURABLE = ("paper", "small-conv", "mlp", "vit")
"""Networks that never read a value on the host, so their steps can be captured; of others only the author knows."""
LONGEST_ROUND_BYTES = 2**26
"""Of indices, labels and z, in a worker; a round of the usual length may take more."""
ROUND_STEPS, SNAPSHOT_EVERY_STEPS = {False: 16, True: 256}, {False: 64, True: 2048}
"""Defaults, by whether blocks are on GPUs. There a step may take a tenth of a millisecond, about a millisecond passes
between two rounds, and a snapshot copies 24 MB. The cadence of a CPU would cost more than the steps."""
Module = TypeVar("Module", bound=nn.Module)
LEARNED_DIM = 20
"""Default d of a learned W_embed, as in the paper."""


@dataclass(frozen=True)
class RunPlan:
    """A run's configuration together with the facts of its data.

    Attributes:
        config: of the run.
        facts: of its data set.
        on_gpu: whether blocks are trained on GPUs; changes the defaults of rounds and snapshots, and no result.
        given_network: what builds networks of kind `given`; None where none was handed over.
    """

    config: RunConfig
    facts: DataFacts
    on_gpu: bool = field(default=False, kw_only=True)
    given_network: NetworkFactory | None = field(default=None, kw_only=True)

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule of T blocks."""
        return self.config.noise_schedule()

    @property
    def embedding_dim(self) -> int:
        """d, the size of a class embedding and of z."""
        settings = self.config.embedding
        match settings.kind:
            case "onehot":
                return self.facts.classes
            case "learned":
                return settings.dim or LEARNED_DIM
            case "prototype":
                return prod(self.facts.input_shape)

    @property
    def shapes(self) -> Shapes:
        """The sizes that a block's network has to fit."""
        return Shapes(self.facts.input_shape, self.facts.classes, self.embedding_dim, self.takes_level)

    @property
    def takes_level(self) -> bool:
        """Return True if networks are told the noise level of their z: their blocks own ranges of levels."""
        return self.owns_ranges and self.config.blocks.noise.is_wide

    @property
    def owns_ranges(self) -> bool:
        """Return True if noise levels are drawn for every sample."""
        return not self.end_to_end and self.config.blocks.noise.kind == "range"

    @cached_property
    def noise_ranges(self) -> dict[Stage, NoiseRange]:
        """The noise levels that each block is trained on: one, or a range."""
        return {block(t): each for t, each in enumerate(self.config.noise_ranges(), start=1)}

    @property
    def input_alpha_bar(self) -> tuple[float, ...]:
        """Noise levels of the inputs of blocks and classifier, ᾱ_0 … ᾱ_T; the baseline begins at noise (Eq. 17)."""
        return (0.0,) if self.end_to_end else self.schedule.alpha_bar

    @property
    def learns_embedding(self) -> bool:
        """Return True if W_embed is a stage: the others share it, and it moves."""
        return self.config.shares_embedding

    @property
    def end_to_end(self) -> bool:
        """Return True if the network is the back-propagation baseline, one stage as a whole."""
        return self.config.method == "backprop"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that are trained: blocks, then the classifier, then a learned W_embed."""
        if self.end_to_end:
            return (NETWORK,)
        blocks = (block(t) for t in self.config.blocks.trained())
        return (*blocks, CLASSIFIER, EMBEDDING) if self.learns_embedding else (*blocks, CLASSIFIER)

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
        """Return True if checkpoints are evaluated: a chain needs all of its blocks."""
        return self.config.blocks.only is None and self.config.evaluation.samples > 0

    @property
    def round_steps(self) -> int:
        """Most steps that are sent to a block in one message."""
        chosen = self.config.engine.round_steps
        return ROUND_STEPS[self.on_gpu] if chosen == "auto" else chosen

    @property
    def most_round_steps(self) -> int:
        """What a round may grow to where very many workers are very fast (`Dispatch`): its draws lie in memory."""
        if self.config.engine.round_steps != "auto":
            return self.round_steps
        return max(self.round_steps, LONGEST_ROUND_BYTES // self.step_bytes)

    @property
    def step_bytes(self) -> int:
        """Bytes of one step's indices, labels, noise levels and z."""
        return self.config.training.batch_size * (4 + 4 + 8 * self.owns_ranges + 4 * self.embedding_dim)

    def captures_steps_of(self, stage: Stage) -> bool:
        """Return True if a stage's steps are captured on a GPU (`engine.cuda_graphs`)."""
        wanted, training = self.config.engine.cuda_graphs, self.config.training
        if wanted != "auto":
            return wanted == "always"
        known = not stage.is_block or self.config.blocks.network_of(stage.index).kind in CAPTURABLE
        return known and training.replicas_per_block == 1 and training.lr_schedule.kind != "one-cycle"

    @property
    def sync_steps(self) -> int:
        """Steps that a version of W_embed lasts; the whole run if W_embed is fixed or part of the baseline."""
        return self.config.embedding.sync_steps if self.config.shares_embedding else self.total_steps

    @cached_property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """The steps whose snapshots of all stages make a checkpoint; the last is the end of the run.

        If W_embed is learned, checkpoints and snapshots are taken at ends of its versions only.
        """
        every = self._whole_versions(self.config.checkpoint.steps_between(self.total_steps, self.steps_per_epoch))
        return (*range(every, self.total_steps, every), self.total_steps)

    @cached_property
    def snapshot_steps(self) -> tuple[int, ...]:
        """The steps at which every stage is snapshotted, rising: those of checkpoints, and some between."""
        chosen = self.config.checkpoint.snapshot_every_steps
        every = self._whole_versions(SNAPSHOT_EVERY_STEPS[self.on_gpu] if chosen == "auto" else chosen)
        return tuple(sorted({*self.checkpoint_steps, *range(every, self.total_steps, every)}))

    def ends_version(self, step: int) -> bool:
        """Return True if a version of a learned W_embed ends at a step: all stages can go on from there together.

        The last version of a run may be cut short. Where the run has become longer since, that one is made anew.
        """
        return not self.learns_embedding or step % self.sync_steps == 0 or step == self.total_steps

    def _whole_versions(self, steps: int) -> int:
        """So many steps, rounded up to whole versions of W_embed if that is learned."""
        sync = self.config.embedding.sync_steps if self.config.shares_embedding else 1
        return -(-steps // sync) * sync

    def augmentation(self) -> Augmentation | None:
        """How training images are augmented; None if they are taken as they are.

        Raises:
            UserError: the settings ask for it, and the samples are not images.
        """
        samples, shape = self.facts.samples["train"], self.facts.input_shape
        return build_augmentation(self.config.data.augment, self.config.seed, samples, shape)

    def initial_seed(self, stage: Stage) -> int:
        """The seed of a stage's weights at step 0."""
        return stream_seed(self.config.seed, Purpose.INITIALISATION, stage.number(self.config.blocks.count))

    def block_network(self, t: int, *, drawn: bool = True) -> nn.Module:
        """The untrained network of block t on the CPU, its weights a function of (seed, t).

        Args:
            t: number of the block.
            drawn: whether its weights are needed; else they may be any, for trained ones to be put in.
        """
        settings, seed = self.config.blocks.network_of(t), self.initial_seed(block(t))
        if not drawn and isinstance(settings, UNDRAWN):
            return undrawn_network(settings, self.shapes)
        return build_network(settings, self.shapes, seed, self.given_network)

    def sources(self, stage: Stage) -> dict[str, Source]:
        """The sources of a stage's networks that are a user's own, by import path. Imports them.

        Raises:
            UserError: one does not import.
        """
        every = range(1, self.config.blocks.count + 1)
        blocks = every if stage == NETWORK else [stage.index] if stage.is_block else []
        networks = map(self.config.blocks.network_of, blocks)
        paths = dict.fromkeys(network.path for network in networks if isinstance(network, CustomNetwork))
        return {path: source for path in paths if (source := source_of(path)) is not None}

    def classifier(self) -> nn.Module:
        """The untrained classifier on the CPU, its weights a function of the seed."""
        return build_classifier(self.config.classifier, self.shapes, self.initial_seed(CLASSIFIER))

    def on_device(self, module: Module, device: torch.device) -> Module:
        """A module on a device, laid out in memory as `training.channels_last` says."""
        channels_last = self.config.training.wants_channels_last(device.type == "cuda")
        return module.to(device).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
