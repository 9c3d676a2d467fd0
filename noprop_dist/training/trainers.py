"""The batches of a round, and one step of one block or of the classifier: each minimises its own term of Eq. 8."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from noprop_dist.config.schema import Precision
from noprop_dist.data.samples import Samples, to_device
from noprop_dist.diffusion.noise_range import NoiseRange, log_snr_of
from noprop_dist.diffusion.objective import classifier_loss, kl_to_prior, predict_embedding, squared_errors
from noprop_dist.diffusion.process import as_function_of_embedding
from noprop_dist.diffusion.schedule import Schedule
from noprop_dist.random_streams import Purpose, stream_seed
from noprop_dist.stages import Stage
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import Round
from noprop_dist.training.embedding import EmbeddingCopy
from noprop_dist.training.execution import Execution
from noprop_dist.training.optimisation import Optimisation
from noprop_dist.training.replicas import ALONE, OneReplica


@dataclass(frozen=True)
class StepInputs:
    """One step's batch.

    Attributes:
        step: 0-based.
        x: samples as they are stored, (B, …); empty for the classifier, which reads none.
        labels: (B,) int64.
        z: z_{t-1} for block t, z_T for the classifier, (B, d) float32.
        levels: of each z λ, its relative weight and √ᾱ, (3, B) float32, of a block that owns a range; else None.
    """

    step: int
    x: Tensor
    labels: Tensor
    z: Tensor
    levels: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """(x, labels, z[, levels]). They may be views, whose alignment can change bits: an `Execution` copies them."""
        return (self.x, self.labels, self.z, *(() if self.levels is None else (self.levels,)))


def step_inputs(
    work: Round, device: torch.device, samples: Samples | None, levels: NDArray[np.float32] | None = None
) -> Iterator[StepInputs]:
    """The batches of a round in the order of their steps. All but the samples is copied to the device once for it.

    Args:
        work: the round.
        device: of the batches.
        samples: of the training split, on that device; None if no images are read.
        levels: see `StepInputs`, (K, 3, B).
    """
    # The host never waits for the device here.
    labels, z = to_device(work.labels, torch.int64, device), to_device(work.z, torch.float32, device)
    x_of_steps = repeat(labels.new_empty(0)) if samples is None else samples.read(work.indices, work.epochs)
    of_steps = repeat(None) if levels is None else to_device(levels, torch.float32, device)
    for k, x, level in zip(range(work.steps), x_of_steps, of_steps, strict=False):
        yield StepInputs(work.first_step + k, x, labels[k], z[k], level)


class StageTrainer(Protocol):
    """What the trainers of blocks, classifier and the baseline's network have in common."""

    @property
    def group(self) -> OneReplica:
        """The processes that train the stage together."""

    @property
    def stage(self) -> Stage: ...

    @property
    def embedding(self) -> EmbeddingCopy | None:
        """The stage's copy of W_embed; None for the baseline, whose W_embed is a parameter like any other."""

    def inputs(self, work: Round) -> Iterator[StepInputs]:
        """The batches of a round of this stage, on its device."""

    def step(self, inputs: StepInputs) -> Tensor:
        """One optimiser step on the batch of exactly the next step.

        Returns:
            What it measured, (3,), on the device and not yet read: what was minimised; ‖û_t − u_y‖² of a block, the
            cross-entropy in nats of the classifier or the network; the norm of the gradient before clipping.
        """

    def snapshot(self) -> Snapshot:
        """The whole state, copied to host memory."""

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a snapshot of this stage."""


class BlockTrainer:
    """Trains û_t alone on its term of Eq. 8: (T/2) η (SNR(t) − SNR(t−1)) ‖û_t(z_{t-1}, x) − u_y‖².

    A block that owns a range of levels is trained on its share of the integral that this is a step of.

    Args:
        network: (x, z_{t-1}) → logits; (x, z, λ) → logits where the block owns a range.
        optimisation: of that network, for block t.
        samples: of the training split, on the network's device.
        embedding: its copy of W_embed, on the network's device.
        noise_range: the noise levels of its input: ᾱ_{t-1}, or a range that begins there.
        weight: (T/2) η (SNR(t) − SNR(t−1)).
        seed: of the run; dropout at a step is keyed by (seed, block, step, rank in the group).
        group: of the replicas, of which this is one.
        execution: of the steps.
        precision: that the network multiplies in; all else is float32.
    """

    def __init__(
        self,
        network: nn.Module,
        optimisation: Optimisation,
        samples: Samples,
        embedding: EmbeddingCopy,
        noise_range: NoiseRange,
        weight: float,
        seed: int,
        group: OneReplica,
        *,
        execution: Execution,
        precision: Precision,
    ) -> None:
        self._network = network.train()
        self.group = group
        self._optimisation = optimisation
        self._samples = samples
        self.embedding = embedding
        self._noise_range = noise_range
        self._weight = weight
        self._seed = seed
        self._execution = execution
        self._precision = precision

    @property
    def stage(self) -> Stage:
        return self._optimisation.stage

    def inputs(self, work: Round) -> Iterator[StepInputs]:
        """The batches of a round of this block, on its device."""
        levels = None if work.levels is None else level_facts(self._noise_range, work.levels)
        return step_inputs(work, self.embedding.weights.device, self._samples, levels)

    def step(self, inputs: StepInputs) -> Tensor:
        """One optimiser step on the block's batch of exactly the next step; see `StageTrainer`."""
        expect_step(self._optimisation, inputs.step)
        seed = stream_seed(self._seed, Purpose.DROPOUT, self.stage.index, self.group.rank, inputs.step)
        losses = self._execution(self._compute, inputs.tensors, seed)
        self._optimisation.advance()
        return losses

    def _compute(self, x: Tensor, labels: Tensor, z: Tensor, levels: Tensor | None = None) -> Tensor:
        W, learned = self.embedding.weights, self.embedding.is_learned
        u_y = W[labels]
        root = self._noise_range.lowest**0.5 if levels is None else levels[2][:, None]
        z = as_function_of_embedding(z, u_y, root) if learned else z
        told = () if levels is None or self._noise_range.is_point else (levels[0],)
        with multiply_in(self._precision, W.device):
            logits = self._network(self._samples.normalise(x), z, *told)
        errors = squared_errors(predict_embedding(logits.float(), W), u_y)
        loss = self._weight * (errors if levels is None else levels[1] * errors).mean()
        norm = self._optimisation.apply(loss)
        return torch.stack([loss.detach(), errors.mean().detach(), norm])

    def snapshot(self) -> Snapshot:
        """The whole state, copied to host memory."""
        return _snapshot(self._optimisation, self.embedding)

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a snapshot of this block."""
        self._optimisation.restore(snapshot)
        self.embedding.restore(snapshot.optimizer)
        self._execution.restart()


class ClassifierTrainer:
    """Trains p̂_out(y | z_T) on its term of Eq. 8: E[−log p̂_out(y | z_T)], z_T ~ q(z_T | y).

    If W_embed is learned, it also takes the gradient of D_KL(q(z_0 | y) ‖ p(z_0)), which has no other parameter.

    Args:
        classifier: (z_T, W_embed) → scores.
        optimisation: of that classifier.
        embedding: its copy of W_embed, on the classifier's device.
        schedule: of the run.
        execution: of the steps.
    """

    def __init__(
        self,
        classifier: nn.Module,
        optimisation: Optimisation,
        embedding: EmbeddingCopy,
        schedule: Schedule,
        execution: Execution,
    ) -> None:
        self._classifier = classifier.train()
        self.group = ALONE
        self._optimisation = optimisation
        self.embedding = embedding
        self._schedule = schedule
        self._execution = execution

    @property
    def stage(self) -> Stage:
        return self._optimisation.stage

    def inputs(self, work: Round) -> Iterator[StepInputs]:
        """The batches of a round of the classifier, on its device."""
        return step_inputs(work, self.embedding.weights.device, None)

    def step(self, inputs: StepInputs) -> Tensor:
        """One optimiser step on the classifier's batch of exactly the next step; see `StageTrainer`."""
        expect_step(self._optimisation, inputs.step)
        losses = self._execution(self._compute, inputs.tensors, 0)  # there is no dropout
        self._optimisation.advance()
        return losses

    def _compute(self, _: Tensor, labels: Tensor, z_T: Tensor) -> Tensor:
        W = self.embedding.weights
        kl: Tensor | float = 0.0
        if self.embedding.is_learned:
            u_y = W[labels]
            z_T = as_function_of_embedding(z_T, u_y, self._schedule.alpha_bar[-1] ** 0.5)
            kl = kl_to_prior(u_y, self._schedule.alpha_bar[0])
        cross_entropy = classifier_loss(self._classifier(z_T, W), labels)
        loss = cross_entropy + kl
        norm = self._optimisation.apply(loss)
        return torch.stack([loss.detach(), cross_entropy.detach(), norm])

    def snapshot(self) -> Snapshot:
        """The whole state, copied to host memory."""
        return _snapshot(self._optimisation, self.embedding)

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a snapshot of the classifier."""
        self._optimisation.restore(snapshot)
        self.embedding.restore(snapshot.optimizer)
        self._execution.restart()


def level_facts(noise_range: NoiseRange, levels: NDArray[np.float64]) -> NDArray[np.float32]:
    """What a block computes with of the levels ᾱ (K, B) of a round: λ, relative weight and √ᾱ, (K, 3, B)."""
    facts = log_snr_of(levels), noise_range.relative_weight(levels), levels**0.5
    return np.stack(facts, axis=1).astype(np.float32)


def _snapshot(optimisation: Optimisation, embedding: EmbeddingCopy) -> Snapshot:
    snapshot = optimisation.snapshot()
    return replace(snapshot, optimizer=snapshot.optimizer | embedding.to_arrays())


def expect_step(optimisation: Optimisation, step: int) -> None:
    """Refuse every step but the next one: an optimiser step may be done neither twice nor never."""
    if step != optimisation.steps_done:
        raise RuntimeError(f"{optimisation.stage.name} has done {optimisation.steps_done} steps, got step {step}")


def multiply_in(precision: Precision, device: torch.device) -> torch.autocast:
    """A `with` in which networks multiply in bfloat16, if that is wanted (TF32 is set for a whole process)."""
    # No cache of converted weights: a step converts each of them once, and a captured step could not keep a cache.
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)
