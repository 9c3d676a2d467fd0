"""Accuracy of the whole network, of each block along the chain and alone, and the terms of Eq. 8.

Predictions are made first, from samples alone; labels come in afterwards, only to be compared.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noprop_dist.data.dataset import Split
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.embedding import nearest_class
from noprop_dist.diffusion.objective import (
    classifier_loss,
    kl_to_prior,
    negative_elbo,
    predict_embedding,
    squared_error,
)
from noprop_dist.diffusion.process import noisy_embedding
from noprop_dist.inference.network import NoPropNetwork, Sampler

BATCH = 500
"""Samples at a time; fixed, because the noise of a sample is keyed by its batch."""

# Numbers of passes with noise of their own, for what is not part of the chain; passes of `decide` count from 0.
ALONE_PASS = 1_000_000
TERMS_PASS = 1_000_001


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of the trained network; fractions of the samples.

    Attributes:
        accuracy: the classifier's decision on z_T.
        nearest_embedding_accuracy: the nearest class embedding's decision on z_T.
        sampler: `stochastic` or `mean`.
        passes: that were averaged.
        samples: that were classified.
    """

    accuracy: float
    nearest_embedding_accuracy: float
    sampler: Sampler
    passes: int
    samples: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class BlockEvaluation:
    """Accuracy of one block's part; fractions of the samples.

    Attributes:
        block: 1..T.
        after_block: nearest class embedding of z_t, the chain having run so far.
        prediction: class of û_t within the chain.
        alone: class of û_t from z ~ N(0, I), without the other blocks.
    """

    block: int
    after_block: float
    prediction: float
    alone: float


@dataclass(frozen=True)
class ObjectiveTerms:
    """The terms of Eq. 8 on held-out data, in nats per sample, and what they add up to.

    Attributes:
        cross_entropy: E[−log p̂_out(y | z_T)], z_T ~ q(z_T | y).
        kl: D_KL(q(z_0 | y) ‖ N(0, I)).
        squared_errors: E‖û_t(z_{t-1}, x) − u_y‖², z_{t-1} ~ q(z_{t-1} | y), for t = 1..T.
        denoising_terms: ½ η (SNR(t) − SNR(t−1)) times these errors, for t = 1..T.
        denoising: their sum.
        objective: cross-entropy + KL + denoising, Eq. 8 with the run's η.
        elbo: the same with η = 1, with its sign: a lower bound of log p(y | x).
    """

    cross_entropy: float
    kl: float
    squared_errors: tuple[float, ...]
    denoising_terms: tuple[float, ...]
    denoising: float
    objective: float
    elbo: float

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@torch.inference_mode()
def evaluate(
    network: NoPropNetwork, split: Split, sampler: Sampler, passes: int = 1, first_pass: int = 0
) -> Evaluation:
    """Accuracy of the network on a split, averaged over passes; each pass has its own noise."""
    by_classifier, by_embedding = [], []
    for batch, x in _batches(network, split):
        decision = network.decide(x, sampler, passes, batch, first_pass)
        by_classifier.append(decision.probabilities.argmax(dim=-1))
        by_embedding.append(decision.nearest)
    return Evaluation(
        accuracy=_fraction(by_classifier, split.labels),
        nearest_embedding_accuracy=_fraction(by_embedding, split.labels),
        sampler=sampler,
        passes=passes,
        samples=len(split),
    )


@torch.inference_mode()
def evaluate_blocks(network: NoPropNetwork, split: Split, sampler: Sampler) -> list[BlockEvaluation]:
    """Accuracy after each block of the chain and of each block alone, in one pass over a split."""
    T = network.schedule.T
    after: list[list[Tensor]] = [[] for _ in range(T)]
    predicted: list[list[Tensor]] = [[] for _ in range(T)]
    alone: list[list[Tensor]] = [[] for _ in range(T)]
    for batch, x in _batches(network, split):
        for link in network.chain(x, sampler, 0, batch):
            after[link.t - 1].append(nearest_class(link.z, network.embedding))
            predicted[link.t - 1].append(nearest_class(link.u_hat, network.embedding))
        for t, block in enumerate(network.blocks, start=1):
            u_hat = predict_embedding(block(x, network.noise(len(x), t, ALONE_PASS, batch)), network.embedding)
            alone[t - 1].append(nearest_class(u_hat, network.embedding))
    return [
        BlockEvaluation(t, *(_fraction(guesses[t - 1], split.labels) for guesses in (after, predicted, alone)))
        for t in range(1, T + 1)
    ]


@torch.inference_mode()
def evaluate_terms(network: NoPropNetwork, split: Split, eta: float) -> ObjectiveTerms:
    """The terms of Eq. 8 on a split; each block is fed the noise level that it is used at."""
    schedule, W = network.schedule, network.embedding
    cross_entropy, kl, errors = 0.0, 0.0, np.zeros(schedule.T)
    for batch, x in _batches(network, split):
        labels = torch.from_numpy(split.labels[batch * BATCH : batch * BATCH + len(x)]).to(network.device)
        u_y, share = W[labels], len(x) / len(split)

        def noisy(t: int, u_y: Tensor = u_y, batch: int = batch) -> Tensor:
            return noisy_embedding(u_y, network.noise(len(u_y), t, TERMS_PASS, batch), schedule.alpha_bar[t])

        cross_entropy += share * classifier_loss(network.classifier(noisy(schedule.T), W), labels).item()
        kl += share * kl_to_prior(u_y, schedule.alpha_bar[0]).item()
        for t, block in enumerate(network.blocks, start=1):
            errors[t - 1] += share * squared_error(predict_embedding(block(x, noisy(t - 1)), W), u_y).item()
    objective = negative_elbo(schedule, cross_entropy, kl, errors.tolist(), eta)
    return ObjectiveTerms(
        cross_entropy=cross_entropy,
        kl=kl,
        squared_errors=tuple(errors.tolist()),
        denoising_terms=tuple(0.5 * eta * schedule.snr_gain(t) * e for t, e in enumerate(errors.tolist(), start=1)),
        denoising=objective - cross_entropy - kl,
        objective=objective,
        elbo=-negative_elbo(schedule, cross_entropy, kl, errors.tolist()),
    )


def _batches(network: NoPropNetwork, split: Split) -> Iterator[tuple[int, Tensor]]:
    """Numbered batches of normalised samples, without their labels."""
    samples = Samples(split.inputs, network.facts, network.device)
    for batch, first in enumerate(range(0, len(split), BATCH)):
        yield batch, samples.batch(np.arange(first, min(first + BATCH, len(split))))


def _fraction(predictions: list[Tensor], labels: NDArray[np.int64]) -> float:
    return float((torch.cat(predictions).cpu().numpy() == labels).mean())
