"""The terms of Eq. 8 against torch.distributions, Monte Carlo and autograd."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from noprop_dist.diffusion import objective
from noprop_dist.diffusion.embedding import nearest_class, onehot_embedding
from noprop_dist.diffusion.process import noisy_embedding
from noprop_dist.diffusion.reverse import reverse_process
from noprop_dist.diffusion.schedule import Schedule, cosine

SCHEDULE = cosine(6)


def test_kl_term_is_the_kl_divergence_of_the_two_normals():
    u_y = torch.randn(32, 20, dtype=torch.float64)
    for alpha_bar_0 in (1e-4, 0.3, 0.9):
        q = Independent(Normal(alpha_bar_0**0.5 * u_y, (1 - alpha_bar_0) ** 0.5), 1)
        p = Independent(Normal(torch.zeros_like(u_y), 1.0), 1)
        assert objective.kl_to_prior(u_y, alpha_bar_0) == pytest.approx(kl_divergence(q, p).mean().item(), rel=1e-9)


def test_denoising_term_is_the_kl_divergence_between_the_true_and_the_learned_step():
    """D_KL(q(z_t | z_{t-1}, y) ‖ p(z_t | z_{t-1}, x)) is ½ (SNR(t) − SNR(t−1)) ‖û − u_y‖² (Eq. 8 with η = 1)."""
    u_y, u_hat, z = (torch.randn(16, 10, dtype=torch.float64) for _ in range(3))
    for t in range(1, SCHEDULE.T + 1):
        a, b, c = SCHEDULE.a(t), SCHEDULE.b(t), SCHEDULE.c(t)
        q, p = (Independent(Normal(a * u + b * z, c**0.5), 1) for u in (u_y, u_hat))
        weighted = objective.denoising_weight(SCHEDULE, t, eta=1.0) / SCHEDULE.T * objective.squared_error(u_hat, u_y)
        assert weighted.item() == pytest.approx(kl_divergence(q, p).mean().item(), rel=1e-9)


def test_classifier_term_is_the_negative_log_likelihood_of_the_label():
    scores, labels = torch.randn(8, 5), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    likelihood = torch.softmax(scores, dim=1)[torch.arange(8), labels]
    assert objective.classifier_loss(scores, labels).item() == pytest.approx(-likelihood.log().mean().item())


def test_prediction_is_a_convex_combination_of_class_embeddings():
    embedding = torch.randn(7, 3)
    u_hat = objective.predict_embedding(10 * torch.randn(50, 7), embedding)
    assert (u_hat <= embedding.max(dim=0).values + 1e-6).all()
    assert (u_hat >= embedding.min(dim=0).values - 1e-6).all()
    certain = objective.predict_embedding(1e4 * torch.eye(7), embedding)
    torch.testing.assert_close(certain, embedding)


def test_elbo_bounds_the_log_likelihood_that_can_be_computed_in_closed_form():
    """With one class u and blocks that know it, p(y | x) = 1, so log p = 0, and the bound must lie below it."""
    errors = [0.0] * SCHEDULE.T
    kl = objective.kl_to_prior(torch.ones(1, 1, dtype=torch.float64), SCHEDULE.alpha_bar[0]).item()
    assert -objective.negative_elbo(SCHEDULE, 0.0, kl, errors) == pytest.approx(-kl)
    assert kl > 0


def test_objective_is_the_sum_of_its_terms_and_equals_T_times_the_mean_over_blocks():
    errors = [0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
    terms = [objective.denoising_weight(SCHEDULE, t, 0.1) * error for t, error in enumerate(errors, start=1)]
    whole = objective.negative_elbo(SCHEDULE, 0.7, 0.01, errors, eta=0.1)
    assert whole == pytest.approx(0.7 + 0.01 + sum(terms) / SCHEDULE.T)


@pytest.mark.parametrize("sampled", [True, False])
def test_perfect_blocks_carry_q_of_z0_to_q_of_every_zt(sampled):
    """û = u_y: samples of q(z_0 | y) pushed through Eq. 3 are samples of q(z_t | y), for every t."""
    torch.manual_seed(0)
    schedule, n = Schedule((0.05, 0.2, 0.5, 0.8, 0.99)), 300_000
    embedding = torch.tensor([[1.0, -0.5]])
    u_y = embedding.expand(n, 2)
    z_0 = noisy_embedding(u_y, torch.randn(n, 2), schedule.alpha_bar[0])
    knows = [lambda x, z: torch.zeros(len(z), 1)] * schedule.T
    noise = (lambda t: torch.randn(n, 2)) if sampled else None
    for link in reverse_process(knows, schedule, embedding, torch.empty(n, 0), z_0, noise):
        expected = schedule.alpha_bar[link.t] ** 0.5 * embedding[0]
        torch.testing.assert_close(link.z.mean(dim=0), expected, atol=4 / n**0.5, rtol=0)
        if sampled:
            variance = torch.full((2,), 1 - schedule.alpha_bar[link.t])
            torch.testing.assert_close(link.z.var(dim=0), variance, atol=0, rtol=4 * (2 / n) ** 0.5)


def test_nearest_class_is_the_one_with_the_least_distance():
    z, embedding = torch.randn(40, 6), torch.randn(9, 6)
    assert torch.equal(nearest_class(z, embedding), torch.cdist(z, embedding).argmin(dim=1))
    assert torch.equal(nearest_class(onehot_embedding(4), onehot_embedding(4)), torch.arange(4))
