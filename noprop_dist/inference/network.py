"""A whole trained network (blocks, classifier, embedding and schedule) and what it says of a picture."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from noprop_dist.data.dataset import DataFacts
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.embedding import nearest_class
from noprop_dist.diffusion.reverse import Link, reverse_process
from noprop_dist.diffusion.schedule import Schedule
from noprop_dist.models.features import keeps_nothing, sharing_features
from noprop_dist.random_streams import Purpose, stream

Sampler = Literal["stochastic", "mean"]
PASSES_TOGETHER = 16
"""Passes that share image features; further ones compute them again, so that memory does not grow with passes."""


@dataclass(frozen=True)
class Decision:
    """The network's answer for a batch of samples.

    Attributes:
        probabilities: of the m classes by the classifier on z_T, averaged over passes, (B, m).
        nearest: class whose embedding is nearest to z_T averaged over passes, (B,) int64.
    """

    probabilities: Tensor
    nearest: Tensor


@dataclass(frozen=True)
class NoPropNetwork:
    """Blocks û_1 … û_T and p̂_out, ready for inference.

    Attributes:
        blocks: in evaluation mode.
        classifier: (z_T, W_embed) → scores.
        embedding: W_embed, (m, d).
        schedule: of T blocks.
        facts: of the data set that it was trained on.
        seed: of the run; keys z_0 and ε.
        takes_level: whether blocks are told λ of their input: each owns a range of noise levels.
        steps_per_block: k, steps that a block takes through its range.
    """

    blocks: tuple[nn.Module, ...]
    classifier: nn.Module
    embedding: Tensor
    schedule: Schedule
    facts: DataFacts
    seed: int
    takes_level: bool = field(default=False, kw_only=True)
    steps_per_block: int = field(default=1, kw_only=True)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.embedding.device

    @property
    def coefficients(self) -> Tensor:
        """a_t, b_t and s_t of z_t = a_t û_t(z_{t-1}, x) + b_t z_{t-1} + s_t ε_t for each step, (kT, 3) float32.

        Where blocks are told it, λ of z_{t-1} comes fourth.
        """
        levels = self.schedule.refined(self.steps_per_block)
        steps = range(1, levels.T + 1)
        links = [(levels.a(t), levels.b(t), levels.c(t) ** 0.5, levels.log_snr(t - 1)) for t in steps]
        return torch.tensor(links, device=self.device)[:, : 4 if self.takes_level else 3].contiguous()

    def level(self, t: int, samples: int) -> tuple[Tensor, ...]:
        """λ of block t's input z_{t-1} as a further argument, (samples,); none where blocks are not told it."""
        if not self.takes_level:
            return ()
        return (torch.full((samples,), self.schedule.log_snr(t - 1), device=self.device),)

    @property
    def batches_at_once(self) -> int:
        """How many batches may be computed at the same time, each in a thread of its own.

        As many as this thread has threads of the CPU; one on a GPU, or where a network is not ours.
        """
        alike = self.device.type == "cpu" and all(map(keeps_nothing, (*self.blocks, self.classifier)))
        return torch.get_num_threads() if alike else 1

    def sharing_image_features(self) -> Self:
        """The same network, for chains that go side by side: each image path is computed once for all of them."""
        return replace(self, blocks=sharing_features(self.blocks))

    def noise(self, samples: int, t: int, pass_: int, batch: int | None) -> Tensor:
        """z_0 (t = 0) or ε of step t for one batch of samples in one pass, (samples, d); the same at every call.

        Without the number of a batch all samples have the noise of the first one of batch 0. So what is said of a
        sample does not depend on the others.
        """
        generator = stream(self.seed, Purpose.EVALUATION, stage=t, epoch=pass_, step=batch or 0)
        rows, d = samples if batch is not None else 1, self.embedding.shape[1]
        noise = generator.standard_normal((rows, d), dtype=np.float32)
        return torch.from_numpy(noise).to(self.device).expand(samples, d)

    def strata(self, samples: int, t: int, pass_: int, batch: int) -> NDArray[np.float64]:
        """Numbers of [0, 1) from which noise levels of block t are drawn, one in each of `samples` equal parts."""
        generator = stream(self.seed, Purpose.LEVEL, stage=t, epoch=pass_, step=batch)
        numbers: NDArray[np.float64] = (generator.permutation(samples) + generator.random(samples)) / samples
        return numbers

    def chain(self, x: Tensor, sampler: Sampler, pass_: int = 0, batch: int | None = 0) -> Iterator[Link]:
        """The reverse process from z_0 ~ N(0, I), one link at a time.

        Args:
            x: normalised samples, (B, …).
            sampler: `stochastic` (Eq. 3) or `mean` (ε = 0).
            pass_: which of several independent passes.
            batch: number of this batch, so that batches differ in their noise; None: see `noise`.
        """
        z_0 = self.noise(len(x), 0, pass_, batch)
        epsilon = None if sampler == "mean" else lambda t: self.noise(len(x), t, pass_, batch)
        return reverse_process(
            *(self.blocks, self.schedule, self.embedding, x, z_0, epsilon),
            steps_per_block=self.steps_per_block,
            takes_level=self.takes_level,
        )

    def decide(
        self, x: Tensor, sampler: Sampler, passes: int = 1, batch: int | None = 0, first_pass: int = 0
    ) -> Decision:
        """Classify samples, without any label; passes share the image features."""
        deciding = self.sharing_image_features().deciding(x, sampler, passes, batch, first_pass)
        while True:
            try:
                next(deciding)
            except StopIteration as decided:
                decision: Decision = decided.value
                return decision

    def deciding(
        self, x: Tensor, sampler: Sampler, passes: int = 1, batch: int | None = 0, first_pass: int = 0
    ) -> Generator[Sequence[Link], None, Decision]:
        """As `decide`, one block at a time: yields the links that the passes have come to."""
        probabilities, z_mean = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for first in range(first_pass, first_pass + passes, PASSES_TOGETHER):
            together = range(first, min(first + PASSES_TOGETHER, first_pass + passes))
            links: Sequence[Link] = ()
            for links in zip(*(self.chain(x, sampler, pass_, batch) for pass_ in together), strict=True):
                yield links
            for last in links:
                probabilities = probabilities + torch.softmax(self.classifier(last.z, self.embedding), dim=-1) / passes
                z_mean = z_mean + last.z / passes
        return Decision(probabilities, nearest_class(z_mean, self.embedding))


@dataclass(frozen=True)
class Prediction:
    """The most probable class of a picture, and its probability.

    Attributes:
        class_name: of the class.
        probability: of it.
        image: the path of the picture, or the number of a sample among others.
    """

    class_name: str
    probability: float
    image: str = ""

    @staticmethod
    def of(probabilities: NDArray[np.float32] | Tensor, network: NoPropNetwork, image: str = "") -> "Prediction":
        """The prediction that a network's probabilities (m,) stand for."""
        label = int(probabilities.argmax())
        return Prediction(network.facts.class_names[label], float(probabilities[label]), image)


@torch.no_grad()
def predict_image(network: NoPropNetwork, image: NDArray[np.uint8], sampler: Sampler, passes: int = 1) -> Prediction:
    """Classify one picture by itself, so that no prediction depends on others.

    Args:
        network: that classifies it.
        image: as it is stored, (C, H, W).
        sampler: `stochastic` or `mean`.
        passes: of the reverse process, averaged.
    """
    x = Samples(image[None], network.facts, network.device).batch(np.zeros(1, dtype=np.int64))
    return Prediction.of(network.decide(x, sampler, passes).probabilities[0], network)
