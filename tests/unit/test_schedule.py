"""Every coefficient of the schedule against something independent of its formula."""

import math

import numpy as np
import pytest

from noprop_dist.diffusion.process import noisy_embedding, one_step_noisier
from noprop_dist.diffusion.schedule import Schedule, cosine, equal_probability, linear
from noprop_dist.errors import UserError

SCHEDULES = [cosine(10), linear(10), equal_probability(10), Schedule((0.01, 0.2, 0.25, 0.9)), cosine(1)]


def normal(x, mean, variance):
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_b_and_c_are_what_numerical_bayes_gives(schedule):
    u_y, z_before = 1.3, -0.4
    for t in range(1, schedule.T + 1):
        mean = schedule.a(t) * u_y + schedule.b(t) * z_before
        width = 12 * math.sqrt(schedule.c(t))
        z = np.linspace(mean - width, mean + width, 200_001)
        alpha, alpha_bar = schedule.alpha(t - 1), schedule.alpha_bar[t]
        backward = normal(z_before, math.sqrt(alpha) * z, 1 - alpha)  # q(z_{t-1} | z_t), Eq. 5
        marginal = normal(z, math.sqrt(alpha_bar) * u_y, 1 - alpha_bar)  # q(z_t | y), Eq. 6
        posterior = backward * marginal / (backward * marginal).sum()
        assert (posterior * z).sum() == pytest.approx(mean, abs=1e-9)
        assert (posterior * (z - mean) ** 2).sum() == pytest.approx(schedule.c(t), rel=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_alpha_bar_is_the_product_of_the_alphas_from_t_to_T(schedule):
    for t in range(schedule.T + 1):
        product = math.prod(schedule.alpha(s) for s in range(t, schedule.T + 1))
        assert product == pytest.approx(schedule.alpha_bar[t], rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_weight_of_a_block_is_a_squared_over_2c(schedule):
    """Eqs. 51 to 56: (1/2c_t) a_t² = ½ (SNR(t) − SNR(t−1)), exact in float64 but for the cancellation in 1 − ᾱ."""
    for t in range(1, schedule.T + 1):
        assert schedule.a(t) ** 2 / (2 * schedule.c(t)) == pytest.approx(0.5 * schedule.snr_gain(t), rel=1e-11)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_weight_and_variance_is_positive(schedule):
    for t in range(1, schedule.T + 1):
        assert schedule.snr_gain(t) > 0
        assert schedule.c(t) > 0


def test_noising_step_by_step_gives_the_marginal_of_every_t():
    """Eq. 5 applied T − t times to samples of q(z_T | y) gives samples of q(z_t | y) (Eq. 6)."""
    schedule, random, n = cosine(5), np.random.default_rng(0), 400_000
    u_y = np.full((n, 1), 1.5, dtype=np.float32)
    z = noisy_embedding(u_y, random.standard_normal((n, 1), dtype=np.float32), schedule.alpha_bar[5])
    for t in range(4, -1, -1):
        z = one_step_noisier(z, random.standard_normal((n, 1), dtype=np.float32), schedule.alpha(t))
        assert z.mean() == pytest.approx(1.5 * math.sqrt(schedule.alpha_bar[t]), abs=4 / math.sqrt(n))
        assert z.var() == pytest.approx(1 - schedule.alpha_bar[t], rel=4 * math.sqrt(2 / n))


def test_cosine_is_the_printed_formula_with_its_index_reversed():
    T, s = 10, 0.008
    x = np.linspace(0, T, T + 1)
    printed = np.cos((x / T + s) / (1 + s) * np.pi * 0.5) ** 2
    printed = np.clip(printed / printed[0], 1e-4, 1 - 1e-3)
    assert cosine(T).alpha_bar == pytest.approx(printed[::-1], rel=1e-12)


@pytest.mark.parametrize("T", [1, 2, 50, 100, 200, 1000])
def test_cosine_stays_valid_for_any_number_of_blocks(T):
    assert cosine(T).T == T


def test_equal_probability_gives_every_block_the_same_mass_of_noise_levels():
    schedule, random = equal_probability(8), np.random.default_rng(0)
    sigma = np.exp(random.normal(-1.2, 1.2, size=1_000_000))
    borders = np.sqrt((1 - np.array(schedule.alpha_bar)) / np.array(schedule.alpha_bar))[::-1]
    counts, _ = np.histogram(sigma, borders)
    assert counts.max() / counts.min() < 1.02


def test_linear_rises_in_equal_steps():
    assert np.diff(linear(7).alpha_bar) == pytest.approx([(0.999 - 1e-4) / 7] * 7)


@pytest.mark.parametrize(
    ("alpha_bar", "message"),
    [
        ((0.9, 0.5, 0.1), "direction is reversed"),
        ((0.1, 0.5, 0.5), r"alpha_bar\[2\] = 0.5 does not exceed alpha_bar\[1\]"),
        ((0.1, 0.6, 0.4, 0.9), r"alpha_bar\[2\] = 0.4 .* direction"),
        ((0.0, 0.5), r"alpha_bar\[0\] = 0 is not strictly between 0 and 1"),
        ((0.1, 1.0), r"alpha_bar\[1\] = 1 is not strictly"),
        ((0.1, math.nan), r"alpha_bar\[1\] = nan"),
        ((0.5,), "at least 2"),
    ],
)
def test_an_invalid_schedule_is_refused_naming_the_entry(alpha_bar, message):
    with pytest.raises(UserError, match=message):
        Schedule(alpha_bar)


def test_a_clamp_that_makes_two_entries_equal_is_refused():
    with pytest.raises(UserError, match="does not exceed"):
        cosine(100, alpha_bar_max=0.9)
