"""The noise schedule: ᾱ_0 < … < ᾱ_T and every coefficient that follows from it.

Time runs from noise (t = 0) to label (t = T), as in the paper: block t maps z_{t-1} to z_t, so ᾱ_t grows
with t. `docs/explanation/mathematics.md` shows why a falling ᾱ (the direction of DDPM) cannot work here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

from noprop_dist.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """A valid schedule of T blocks: 0 < ᾱ_0 < … < ᾱ_T < 1, strictly.

    Attributes:
        alpha_bar: ᾱ_0 … ᾱ_T, T + 1 numbers without unit.

    Raises:
        UserError: an entry breaks the order; the message names the entry, and the direction of time where
            that is the likely mistake.
    """

    alpha_bar: tuple[float, ...]

    def __post_init__(self) -> None:
        check_alpha_bar(self.alpha_bar)

    @property
    def T(self) -> int:  # noqa: N802 - the paper's symbol
        """Number of denoising blocks."""
        return len(self.alpha_bar) - 1

    def alpha(self, t: int) -> float:
        """α_t = ᾱ_t / ᾱ_{t+1} for t = 0..T−1, α_T = ᾱ_T (so that ᾱ_t = Π_{s=t..T} α_s)."""
        return self.alpha_bar[t] / self.alpha_bar[t + 1] if t < self.T else self.alpha_bar[t]

    def snr(self, t: int) -> float:
        """SNR(t) = ᾱ_t / (1 − ᾱ_t), t = 0..T (after Eq. 8)."""
        return snr(self.alpha_bar[t])

    def log_snr(self, t: int) -> float:
        """λ_t = ln SNR(t), t = 0..T."""
        return log_snr(self.alpha_bar[t])

    def refined(self, steps: int) -> "Schedule":
        """Cut each block's part, from ᾱ_{t-1} to ᾱ_t, into so many steps, equal in λ.

        Its steps 1, …, T · `steps` have a, b and c of their own; step s is done by block ⌈s / steps⌉.

        Raises:
            UserError: ᾱ does not rise at every step, for a block's borders are too close together for float64.
        """
        if steps == 1:
            return self
        within = [
            shifted(noisy, k * (log_snr(clean) - log_snr(noisy)) / steps)
            for noisy, clean in pairwise(self.alpha_bar)
            for k in range(1, steps + 1)
        ]
        within[steps - 1 :: steps] = self.alpha_bar[1:]  # borders stay as they are, to the last bit
        levels = (self.alpha_bar[0], *within)
        equal = next((step for step, (noisy, clean) in enumerate(pairwise(levels)) if noisy >= clean), None)
        if equal is not None:
            t = equal // steps + 1
            raise UserError(
                f"steps_per_block={steps}: the levels of block {t}, alpha_bar from {self.alpha_bar[t - 1]!r} to "
                f"{self.alpha_bar[t]!r}, are too close together; take fewer steps"
            )
        return Schedule(levels)

    def snr_gain(self, t: int) -> float:
        """SNR(t) − SNR(t−1) > 0, what block t = 1..T adds (Eq. 8)."""
        return self.snr(t) - self.snr(t - 1)

    def a(self, t: int) -> float:
        """Share of u_y in the mean of q(z_t | z_{t-1}, y), t = 1..T (between Eqs. 6 and 7)."""
        return math.sqrt(self.alpha_bar[t]) * (1 - self.alpha(t - 1)) / (1 - self.alpha_bar[t - 1])

    def b(self, t: int) -> float:
        """Share of z_{t-1} in the mean of q(z_t | z_{t-1}, y), t = 1..T (between Eqs. 6 and 7)."""
        return math.sqrt(self.alpha(t - 1)) * (1 - self.alpha_bar[t]) / (1 - self.alpha_bar[t - 1])

    def c(self, t: int) -> float:
        """Variance of q(z_t | z_{t-1}, y), t = 1..T, always positive (between Eqs. 6 and 7)."""
        return (1 - self.alpha_bar[t]) * (1 - self.alpha(t - 1)) / (1 - self.alpha_bar[t - 1])


def snr(alpha_bar: float) -> float:
    """ᾱ / (1 − ᾱ)."""
    return alpha_bar / (1 - alpha_bar)


def log_snr(alpha_bar: float) -> float:
    """λ = ln SNR = ln(ᾱ / (1 − ᾱ))."""
    return math.log(alpha_bar) - math.log1p(-alpha_bar)


def shifted(alpha_bar: float, by: float) -> float:
    """The level whose λ is greater by so much; the same level, to the last bit, for 0."""
    return alpha_bar * math.exp(by) / (1 + alpha_bar * math.expm1(by))


def check_alpha_bar(alpha_bar: Sequence[float]) -> None:
    """Refuse anything but 0 < ᾱ_0 < … < ᾱ_T < 1, naming the entry that breaks it.

    Raises:
        UserError: as described for `Schedule`.
    """
    if len(alpha_bar) < 2:
        raise UserError(f"schedule: {len(alpha_bar)} value(s) of alpha_bar, at least 2 are needed (t = 0..T)")
    for t, value in enumerate(alpha_bar):
        if not 0 < value < 1:
            raise UserError(f"schedule: alpha_bar[{t}] = {value:g} is not strictly between 0 and 1")
    if all(later < earlier for earlier, later in pairwise(alpha_bar)):
        raise UserError(
            f"schedule: alpha_bar falls from {alpha_bar[0]:g} to {alpha_bar[-1]:g}, so its direction is reversed: "
            "time runs from noise (t = 0) to label (t = T) and alpha_bar must rise; reverse the list"
        )
    for t, (earlier, later) in enumerate(pairwise(alpha_bar), start=1):
        if later <= earlier:
            raise UserError(
                f"schedule: alpha_bar[{t}] = {later:.9g} does not exceed alpha_bar[{t - 1}] = {earlier:.9g}: "
                "alpha_bar must rise strictly in the direction from noise (t = 0) to label (t = T)"
            )


def cosine(T: int, alpha_bar_min: float | None = None, alpha_bar_max: float | None = None) -> Schedule:
    """ᾱ_t = clamp(f(1 − t/T), ᾱ_min, ᾱ_max), the cosine schedule with its index running from noise to label.

    f(r) = cos²((r + s)/(1 + s) · π/2) / cos²(s/(1 + s) · π/2) with s = 0.008.

    Args:
        T: number of blocks.
        alpha_bar_min: lower clamp; by default 1e-4, or lower where many blocks would otherwise meet it.
        alpha_bar_max: upper clamp; by default 1 − 1e-3, or higher where many blocks would otherwise meet it.
    """

    def f(r: float) -> float:
        s = 0.008
        return math.cos((r + s) / (1 + s) * math.pi / 2) ** 2 / math.cos(s / (1 + s) * math.pi / 2) ** 2

    if alpha_bar_min is None:
        alpha_bar_min = 1e-4 if T == 1 or f(1 - 1 / T) > 1e-4 else f(1 - 1 / T) / 2
    if alpha_bar_max is None:
        alpha_bar_max = 1 - 1e-3 if T == 1 or f(1 / T) < 1 - 1e-3 else (1 + f(1 / T)) / 2
    return Schedule(tuple(min(max(f(1 - t / T), alpha_bar_min), alpha_bar_max) for t in range(T + 1)))


def linear(T: int, alpha_bar_min: float = 1e-4, alpha_bar_max: float = 1 - 1e-3) -> Schedule:
    """ᾱ_t rises from ᾱ_min to ᾱ_max in T equal steps."""
    return Schedule(tuple(alpha_bar_min + (alpha_bar_max - alpha_bar_min) * t / T for t in range(T + 1)))


def equal_probability(
    T: int,
    alpha_bar_min: float = 1e-4,
    alpha_bar_max: float = 1 - 1e-3,
    log_sigma_mean: float = -1.2,
    log_sigma_std: float = 1.2,
) -> Schedule:
    """Every block gets the same probability mass of noise levels (DiffusionBlocks, arXiv 2506.14202).

    The noise level is σ = √((1 − ᾱ)/ᾱ), that is SNR = 1/σ², and ln σ ~ N(log_sigma_mean, log_sigma_std²) as in
    EDM (arXiv 2206.00364); the range between the σ of ᾱ_min and of ᾱ_max is cut into T equal masses.
    """
    log_sigma = NormalDist(log_sigma_mean, log_sigma_std)
    noisiest, cleanest = (
        log_sigma.cdf(0.5 * math.log((1 - alpha_bar) / alpha_bar)) for alpha_bar in (alpha_bar_min, alpha_bar_max)
    )
    inner = [log_sigma.inv_cdf(noisiest + (cleanest - noisiest) * t / T) for t in range(1, T)]
    return Schedule((alpha_bar_min, *(1 / (1 + math.exp(2 * level)) for level in inner), alpha_bar_max))
