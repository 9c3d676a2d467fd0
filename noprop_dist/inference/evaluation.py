"""Accuracy of the whole network, of each block along the chain and alone, and the terms of Eq. 8.

Predictions are made first, from samples alone; labels come in afterwards, only to be compared.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import zip_longest
from operator import add
from threading import Event
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from noprop_dist.data.dataset import Labels, Split
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.embedding import nearest_class
from noprop_dist.diffusion.noise_range import NoiseRange, log_snr_of
from noprop_dist.diffusion.objective import (
    classifier_loss,
    kl_to_prior,
    negative_elbo,
    predict_embedding,
    squared_error,
    squared_errors,
)
from noprop_dist.diffusion.process import noisy_embedding, noisy_embedding_at
from noprop_dist.diffusion.schedule import Schedule
from noprop_dist.inference.network import NoPropNetwork, Sampler
from noprop_dist.inference.side_by_side import side_by_side

Value = TypeVar("Value")
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
        alone: class of û_t from z ~ N(0, I) in one step, without the other blocks.
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
        squared_errors: E‖û_t(z_{t-1}, x) − u_y‖², z_{t-1} ~ q(z_{t-1} | y), for t = 1..T; of a block that owns a range
            of levels, the mean with respect to dSNR over it, so that its term is its share of the integral.
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


@dataclass(frozen=True)
class Passes:
    """Of the reverse process, whose probabilities are averaged; passes with other numbers have other noise."""

    sampler: Sampler
    count: int = 1
    first: int = 0


@dataclass(frozen=True)
class Measurements:
    """What was measured of a network in one pass over a split.

    Attributes:
        accuracies: of all passes that were asked for, in this order.
        terms: of Eq. 8, if they were asked for.
        per_block: of block 1..T, if they were asked for.
    """

    accuracies: tuple[Evaluation, ...]
    terms: ObjectiveTerms | None
    per_block: tuple[BlockEvaluation, ...]


def measure(
    network: NoPropNetwork,
    split: Split,
    passes: Sequence[Passes] = (),
    *,
    eta: float | None = None,
    blocks: Sampler | None = None,
) -> Measurements:
    """Measure all that is asked for in one pass over a split, which computes every image path once.

    Args:
        network: that is measured.
        split: of held-out data.
        passes: with which to measure the accuracy of the whole network, each by itself.
        eta: of the run, to measure the terms of Eq. 8.
        blocks: the sampler with which to measure each block.
    """
    accuracies = [_Accuracy(each) for each in passes]
    terms = None if eta is None else _Terms(split.labels)
    parts = None if blocks is None else _Parts(blocks, network.schedule.T)
    _go_over(network, split, [each for each in (*accuracies, terms, parts) if each is not None])
    return Measurements(
        tuple(accuracy.result(split.labels) for accuracy in accuracies),
        None if eta is None or terms is None else terms.result(network.schedule, eta),
        () if parts is None else parts.result(split.labels),
    )


def evaluate(
    network: NoPropNetwork, split: Split, sampler: Sampler, passes: int = 1, first_pass: int = 0
) -> Evaluation:
    """Accuracy of the network on a split, averaged over passes; each pass has its own noise."""
    return measure(network, split, [Passes(sampler, passes, first_pass)]).accuracies[0]


def evaluate_blocks(network: NoPropNetwork, split: Split, sampler: Sampler) -> tuple[BlockEvaluation, ...]:
    """Accuracy after each block of the chain and of each block alone, in one pass over a split."""
    return measure(network, split, blocks=sampler).per_block


def evaluate_terms(network: NoPropNetwork, split: Split, eta: float) -> ObjectiveTerms:
    """The terms of Eq. 8 on a split; each block is fed the noise level that it is used at."""
    terms = measure(network, split, eta=eta).terms
    assert terms is not None
    return terms


class _Figure(Protocol):
    def follow(self, network: NoPropNetwork, x: Tensor, batch: int) -> Iterator[object]:
        """Take in a batch of normalised samples, one block at a time. Batches may come in any order, and at once."""


class _Accuracy:
    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self._by_classifier: dict[int, Tensor] = {}
        self._by_embedding: dict[int, Tensor] = {}

    def follow(self, network: NoPropNetwork, x: Tensor, batch: int) -> Iterator[object]:
        passes = self._passes
        decision = yield from network.deciding(x, passes.sampler, passes.count, batch, passes.first)
        self._by_classifier[batch] = decision.probabilities.argmax(dim=-1)
        self._by_embedding[batch] = decision.nearest

    def result(self, labels: Labels) -> Evaluation:
        return Evaluation(
            accuracy=_fraction(self._by_classifier, labels),
            nearest_embedding_accuracy=_fraction(self._by_embedding, labels),
            sampler=self._passes.sampler,
            passes=self._passes.count,
            samples=len(labels),
        )


class _Parts:
    def __init__(self, sampler: Sampler, T: int) -> None:
        self._sampler, self._T = sampler, T
        self._guesses: list[tuple[dict[int, Tensor], ...]] = [({}, {}, {}) for _ in range(T)]

    def follow(self, network: NoPropNetwork, x: Tensor, batch: int) -> Iterator[object]:
        for link, block in zip(network.chain(x, self._sampler, 0, batch), network.blocks, strict=True):
            noise = network.noise(len(x), link.t, ALONE_PASS, batch)
            alone = block(x, noise, *network.level(link.t, len(x)))
            points = link.z, link.u_hat, predict_embedding(alone, network.embedding)
            for guesses, point in zip(self._guesses[link.t - 1], points, strict=True):
                guesses[batch] = nearest_class(point, network.embedding)
            yield link

    def result(self, labels: Labels) -> tuple[BlockEvaluation, ...]:
        shares = ((_fraction(guesses, labels) for guesses in of_block) for of_block in self._guesses)
        return tuple(BlockEvaluation(t, *of_block) for t, of_block in enumerate(shares, start=1))


class _Terms:
    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._shares: dict[int, list[float]] = {}

    def follow(self, network: NoPropNetwork, x: Tensor, batch: int) -> Iterator[object]:
        schedule, W = network.schedule, network.embedding
        labels = torch.from_numpy(self._labels[batch * BATCH : batch * BATCH + len(x)]).to(network.device)
        u_y, share = W[labels], len(x) / len(self._labels)

        def noise(t: int) -> Tensor:
            return network.noise(len(u_y), t, TERMS_PASS, batch)

        def error(t: int, block: Any) -> Tensor:
            if not network.takes_level:
                z = noisy_embedding(u_y, noise(t - 1), schedule.alpha_bar[t - 1])
                return squared_error(predict_embedding(block(x, z), W), u_y)
            owned = NoiseRange(schedule.alpha_bar[t - 1], schedule.alpha_bar[t])
            levels = owned.draw(network.strata(len(u_y), t, TERMS_PASS, batch))
            weights = torch.from_numpy(owned.relative_weight(levels)).to(u_y)
            log_snr = torch.from_numpy(log_snr_of(levels)).to(u_y)
            u_hat = predict_embedding(block(x, noisy_embedding_at(u_y, noise(t - 1), levels), log_snr), W)
            return (weights * squared_errors(u_hat, u_y)).mean()

        of_batch = self._shares[batch] = []
        z_T = noisy_embedding(u_y, noise(schedule.T), schedule.alpha_bar[-1])
        of_batch.append(share * classifier_loss(network.classifier(z_T, W), labels).item())
        of_batch.append(share * kl_to_prior(u_y, schedule.alpha_bar[0]).item())
        for t, block in enumerate(network.blocks, start=1):
            of_batch.append(share * error(t, block).item())
            yield t

    def result(self, schedule: Schedule, eta: float) -> ObjectiveTerms:
        cross_entropy, kl, *errors = map(_added, zip(*_in_order(self._shares), strict=True))
        objective = negative_elbo(schedule, cross_entropy, kl, errors, eta)
        return ObjectiveTerms(
            cross_entropy=cross_entropy,
            kl=kl,
            squared_errors=tuple(errors),
            denoising_terms=tuple(0.5 * eta * schedule.snr_gain(t) * e for t, e in enumerate(errors, start=1)),
            denoising=objective - cross_entropy - kl,
            objective=objective,
            elbo=-negative_elbo(schedule, cross_entropy, kl, errors),
        )


def _go_over(network: NoPropNetwork, split: Split, figures: Sequence[_Figure]) -> None:
    """Take a split into all figures, batch by batch and block by block, so that they share image features."""
    samples, given_up = Samples(split.inputs, network.facts, network.device), Event()

    @torch.inference_mode()
    def follow(batch: int) -> None:
        first, sharing = batch * BATCH, network.sharing_image_features()
        x = samples.batch(np.arange(first, min(first + BATCH, len(split))))
        for _ in zip_longest(*(figure.follow(sharing, x, batch) for figure in figures)):
            if given_up.is_set():
                return

    batches = range(-(-len(split) // BATCH))
    for _ in side_by_side(follow, batches, min(network.batches_at_once, len(batches)), given_up):
        pass


def _in_order(by_batch: Mapping[int, Value]) -> list[Value]:
    return [by_batch[batch] for batch in sorted(by_batch)]


def _added(shares: Iterable[float]) -> float:
    return reduce(add, shares, 0.0)  # `sum` rounds otherwise from Python 3.12 on


def _fraction(predictions: Mapping[int, Tensor], labels: Labels) -> float:
    return float((torch.cat(_in_order(predictions)).cpu().numpy() == labels).mean())
