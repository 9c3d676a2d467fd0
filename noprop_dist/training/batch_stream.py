"""The batches of every stage as a pure function of (seed, epoch, step, stage)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from noprop_dist.diffusion.noise_range import Levels, NoiseRange
from noprop_dist.diffusion.process import noisy_embedding, noisy_embedding_at
from noprop_dist.random_streams import Purpose, stream
from noprop_dist.stages import Stage
from noprop_dist.training.embedding import EmbeddingVersion

EPOCH_ORDERS_KEPT = 8
"""Blocks run free and may be in different epochs; an order of 50,000 samples takes 0.2 MB."""


@dataclass(frozen=True)
class Batch:
    """One batch of one stage.

    Attributes:
        step: 0-based step that it is for.
        epoch: 0-based epoch of the step.
        indices: of the training samples, (B,) int32.
        labels: of the same samples, (B,) int32.
        z: z_{t-1} ~ q(z_{t-1} | y) for block t, z_T for the classifier, (B, d) float32.
        levels: ᾱ of each z, (B,), of a block that owns a range of levels; else None.
    """

    step: int
    epoch: int
    indices: NDArray[np.int32]
    labels: NDArray[np.int32]
    z: NDArray[np.float32]
    levels: Levels | None = None


@dataclass(frozen=True)
class RoundKey:
    """What determines a round, beside the run's configuration and labels: whoever has it can draw the round.

    Attributes:
        stage: a block, the classifier or the whole network.
        first_step: 0-based step of the first batch.
        steps: K ≥ 1.
        embedding: the version of W_embed that these steps train against, if it is learned.
    """

    stage: Stage
    first_step: int
    steps: int
    embedding: EmbeddingVersion | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its three numbers, without a version of W_embed that comes with them."""
        return 3 * 8


@dataclass(frozen=True)
class Round:
    """K consecutive batches of one stage: what the coordinator sends to a worker in one message.

    If the worker draws for itself (`engine.sampling`), a `RoundKey` is sent in its place.

    A round of 16 steps of 128 samples with d = 10 takes 98 kB. Up to 100 kB Ray sends an argument with its call; a
    larger one goes through the object store, which costs more. Images travel once, with the data set.

    Attributes:
        stage: a block, the classifier or the whole network.
        first_step: 0-based step of the first batch.
        epochs: of each step, (K,) int32.
        indices: of the training samples, (K, B) int32.
        labels: of the same samples, (K, B) int32.
        z: z_{t-1} ~ q(z_{t-1} | y) for block t, z_T for the classifier, (K, B, d) float32.
        embedding: the version of W_embed that these steps train against, if it is learned.
        levels: ᾱ of each z, (K, B) float64, of a block that owns a range of levels; else None.
    """

    stage: Stage
    first_step: int
    epochs: NDArray[np.int32]
    indices: NDArray[np.int32]
    labels: NDArray[np.int32]
    z: NDArray[np.float32]
    embedding: EmbeddingVersion | None = None
    levels: Levels | None = None

    @property
    def steps(self) -> int:
        return len(self.epochs)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays, without a version of W_embed that comes with them."""
        levels = 0 if self.levels is None else self.levels.nbytes
        return levels + sum(array.nbytes for array in (self.epochs, self.indices, self.labels, self.z))


def draw_z(
    seed: int, alpha_bar: Sequence[float], stage: Stage, epoch: int, step: int, u_y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Draw z_{t-1} ~ q(z_{t-1} | y) of block t, or z_T of the classifier, (B, d); the same whoever draws it.

    Args:
        seed: of the run.
        alpha_bar: ᾱ_0 … ᾱ_T; the baseline's network has the first alone.
        stage: whose input it is.
        epoch: 0-based.
        step: 0-based.
        u_y: embeddings of the batch's labels, (B, d) float32.
    """
    number = stage.number(len(alpha_bar) - 1)
    return noisy_embedding(u_y, _draw_noise(seed, number, epoch, step, u_y.shape), alpha_bar[number - 1])


def draw_z_in_range(
    seed: int, noise_range: NoiseRange, stage: Stage, epoch: int, step: int, u_y: NDArray[np.float32]
) -> tuple[NDArray[np.float32], Levels]:
    """Draw a noise level for each sample of block t, and z at that level; the same whoever draws them.

    Args:
        seed: of the run.
        noise_range: of the block.
        stage: the block.
        epoch: 0-based.
        step: 0-based.
        u_y: embeddings of the batch's labels, (B, d) float32.

    Returns:
        z, (B, d), and ᾱ of each, (B,).
    """
    levels = noise_range.draw(stream(seed, Purpose.LEVEL, stage.index, epoch, step).random(len(u_y)))
    return noisy_embedding_at(u_y, _draw_noise(seed, stage.index, epoch, step, u_y.shape), levels), levels


def _draw_noise(seed: int, number: int, epoch: int, step: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return stream(seed, Purpose.NOISE, number, epoch, step).standard_normal(shape, dtype=np.float32)


class BatchStream:
    """The batches of every stage. All see the samples in one order, reshuffled every epoch; each has its own noise.

    Args:
        seed: of the run.
        labels: of all training samples, (N,) int64.
        embedding: W_embed, unless a call gives another version, (m, d) float32.
        alpha_bar: noise levels of the inputs of blocks 1, …, T and of the classifier: ᾱ_0 … ᾱ_T. The baseline's
            network has the first alone, 0: z is nothing but noise.
        batch_size: B ≤ N; an epoch's last, incomplete batch is left out.
        noise_ranges: of blocks that own a range of levels; the others have their ᾱ_{t-1}.
    """

    def __init__(
        self,
        seed: int,
        labels: NDArray[np.int64],
        embedding: NDArray[np.float32],
        alpha_bar: Sequence[float],
        batch_size: int,
        noise_ranges: Mapping[Stage, NoiseRange] = MappingProxyType({}),
    ) -> None:
        self._seed = seed
        self._labels = labels.astype(np.int32)
        self._embedding = embedding
        self._alpha_bar = alpha_bar
        self._batch_size = batch_size
        self._noise_ranges = noise_ranges
        self._steps_per_epoch = len(labels) // batch_size
        self._order = lru_cache(EPOCH_ORDERS_KEPT)(self._draw_order)  # threads of a worker may share a stream

    def batch(self, stage: Stage, step: int, embedding: NDArray[np.float32] | None = None) -> Batch:
        """The batch that `stage` trains on at `step` (0-based), z drawn from the embeddings that hold then."""
        epoch, indices, labels = self._samples_at(step)
        u_y = (self._embedding if embedding is None else embedding)[labels]
        if stage in self._noise_ranges:
            drawn = draw_z_in_range(self._seed, self._noise_ranges[stage], stage, epoch, step, u_y)
            return Batch(step, epoch, indices, labels, *drawn)
        return Batch(step, epoch, indices, labels, draw_z(self._seed, self._alpha_bar, stage, epoch, step, u_y))

    def round(self, key: RoundKey) -> Round:
        """The batches of a round."""
        weights = None if key.embedding is None else key.embedding.weights
        batches = [self.batch(key.stage, step, weights) for step in range(key.first_step, key.first_step + key.steps)]
        levels = [batch.levels for batch in batches if batch.levels is not None]
        return Round(
            key.stage,
            key.first_step,
            np.array([batch.epoch for batch in batches], dtype=np.int32),
            np.stack([batch.indices for batch in batches]),
            np.stack([batch.labels for batch in batches]),
            np.stack([batch.z for batch in batches]),
            key.embedding,
            np.stack(levels) if levels else None,
        )

    def _samples_at(self, step: int) -> tuple[int, NDArray[np.int32], NDArray[np.int32]]:
        """(epoch, indices, labels) of a step, the same for all stages."""
        epoch, step_in_epoch = divmod(step, self._steps_per_epoch)
        first = step_in_epoch * self._batch_size
        indices = self._order(epoch)[first : first + self._batch_size]
        return epoch, indices, self._labels[indices]

    def _draw_order(self, epoch: int) -> NDArray[np.int32]:
        return stream(self._seed, Purpose.ORDER, epoch=epoch).permutation(len(self._labels)).astype(np.int32)
