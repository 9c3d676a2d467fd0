"""Blocks that own a range of noise levels in place of one, as in NoProp-CT and DiffusionBlocks (arXiv 2506.14202).

λ = ln SNR = −2 ln σ. A range of width 0 is one level, as in NoProp-DT, and everything here then gives Eq. 8 again.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from noprop_dist.diffusion.schedule import Schedule, log_snr, shifted, snr

Density = Literal["log-uniform", "log-normal"]
Weighting = Literal["snr", "edm"]
Levels = NDArray[np.float64]
"""ᾱ of each sample."""

LOG_SNR = NormalDist(2.4, 2.4)
"""ln σ ~ N(−1.2, 1.2²), as in EDM (arXiv 2206.00364) and DiffusionBlocks, in terms of λ."""
SIGMA_DATA = 0.5
"""σ_d of EDM's weights."""


@dataclass(frozen=True)
class NoiseRange:
    """The noise levels that one block is trained on, and how much each of them counts.

    Attributes:
        lowest: ᾱ of the noisiest level.
        highest: ᾱ of the cleanest level, at least `lowest`.
        density: p(λ), from which levels are drawn: uniform in λ, or normal in ln σ and cut to the range.
        weighting: `snr` is the share in Eq. 8's integral, SNR / p(λ); `edm` is (σ² + σ_d²) / (σ σ_d)².
    """

    lowest: float
    highest: float
    density: Density = "log-uniform"
    weighting: Weighting = "snr"

    @property
    def is_point(self) -> bool:
        """Return True if there is one level: a network has nothing to be told of it."""
        return self.lowest == self.highest

    @property
    def width(self) -> float:
        """Of the range, in λ."""
        return log_snr(self.highest) - log_snr(self.lowest)

    @property
    def mass(self) -> float:
        """The share of ln σ ~ N(−1.2, 1.2²) that lies in the range."""
        return LOG_SNR.cdf(log_snr(self.highest)) - LOG_SNR.cdf(log_snr(self.lowest))

    def draw(self, uniform: NDArray[np.float64]) -> Levels:
        """Levels from the density.

        Args:
            uniform: numbers of [0, 1), of any shape, float64.

        Returns:
            ᾱ, of the same shape; never outside the range, not by a rounding either.
        """
        if self.density == "log-uniform":
            by = uniform * self.width
        else:
            shares = LOG_SNR.cdf(log_snr(self.lowest)) + uniform * self.mass
            by = _quantiles(LOG_SNR, shares) - log_snr(self.lowest)
        levels = self.lowest * np.exp(by) / (1 + self.lowest * np.expm1(by))  # `shifted`, for arrays
        return np.clip(levels, self.lowest, self.highest)

    def relative_weight(self, alpha_bar: Levels) -> NDArray[np.float64]:
        """How much each level counts; its expectation over the density is 1.

        Args:
            alpha_bar: ᾱ of each sample, in the range.
        """
        if self.is_point:
            return np.ones_like(alpha_bar)
        each = alpha_bar / (1 - alpha_bar)
        gain = snr(self.highest) - snr(self.lowest)
        if self.weighting == "snr":
            return each / (self._density_at(np.log(each)) * gain)
        return (SIGMA_DATA**-2 + each) / (SIGMA_DATA**-2 + self._mean_snr(gain))

    def _density_at(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """p(λ)."""
        if self.density == "log-uniform":
            return np.full_like(at, 1 / self.width)
        normal: NDArray[np.float64] = np.exp(-0.5 * ((at - LOG_SNR.mean) / LOG_SNR.stdev) ** 2)
        return normal / (math.sqrt(2 * math.pi) * LOG_SNR.stdev * self.mass)

    def _mean_snr(self, gain: float) -> float:
        """E[SNR] over the density."""
        if self.density == "log-uniform":
            return gain / self.width
        tilted = LOG_SNR + LOG_SNR.variance  # e^λ p(λ) is normal again, with another mean
        mass = tilted.cdf(log_snr(self.highest)) - tilted.cdf(log_snr(self.lowest))
        return math.exp(LOG_SNR.mean + LOG_SNR.variance / 2) * mass / self.mass


def range_of_block(
    schedule: Schedule, t: int, density: Density, weighting: Weighting, *, width: float = 1.0, overlap: float = 0.0
) -> NoiseRange:
    """The range that block t is trained on, which begins at the level ᾱ_{t-1} of its input.

    Args:
        schedule: its ᾱ_t are the borders.
        t: 1..T.
        density: see `NoiseRange`.
        weighting: likewise.
        width: share of [λ_{t-1}, λ_t]: 1 reaches to the next block, 0 is one level.
        overlap: γ, by which share of its width the range is longer at both ends.
    """
    owned = width * (log_snr(schedule.alpha_bar[t]) - log_snr(schedule.alpha_bar[t - 1]))
    noisiest = schedule.alpha_bar[t - 1]
    lowest, highest = shifted(noisiest, -overlap * owned), shifted(noisiest, (1 + overlap) * owned)
    return NoiseRange(lowest, highest, density, weighting)


def _quantiles(distribution: NormalDist, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    import torch  # a configuration is read and checked without it, and levels are drawn where torch is

    standard: NDArray[np.float64] = torch.special.ndtri(torch.from_numpy(shares)).numpy()
    return distribution.mean + distribution.stdev * standard


def log_snr_of(levels: Levels) -> NDArray[np.float64]:
    """λ of each level."""
    each: NDArray[np.float64] = np.log(levels) - np.log1p(-levels)
    return each
