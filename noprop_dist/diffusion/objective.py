"""The three terms of L_NoProp (Eq. 8) and the bound on log p(y | x) that they add up to."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from noprop_dist.diffusion.schedule import Schedule


def predict_embedding(logits: Tensor, embedding: Tensor) -> Tensor:
    """û = softmax(logits) · W_embed: a convex combination of class embeddings (section 2.3.2).

    Args:
        logits: a block's output, (B, m).
        embedding: W_embed, (m, d).

    Returns:
        û, (B, d).
    """
    return torch.softmax(logits, dim=-1) @ embedding


def squared_error(u_hat: Tensor, u_y: Tensor) -> Tensor:
    """‖û − u_y‖², summed over d and averaged over the batch: a scalar."""
    return squared_errors(u_hat, u_y).mean()


def squared_errors(u_hat: Tensor, u_y: Tensor) -> Tensor:
    """‖û − u_y‖² of each sample, summed over d, (B,)."""
    return (u_hat - u_y).square().sum(dim=-1)


def denoising_weight(schedule: Schedule, t: int, eta: float) -> float:
    """(T/2) η (SNR(t) − SNR(t−1)), the weight of block t's squared error (Eq. 8)."""
    return 0.5 * schedule.T * eta * schedule.snr_gain(t)


def classifier_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """−log p̂_out(y | z_T) averaged over the batch, with p̂_out = softmax(scores) (Eqs. 8 and 14).

    Args:
        scores: (B, m).
        labels: (B,) int64.
    """
    return F.cross_entropy(scores, labels)


def kl_to_prior(u_y: Tensor, alpha_bar_0: float) -> Tensor:
    """D_KL(q(z_0 | y) ‖ N(0, I)) averaged over the batch of class embeddings (B, d) (Eq. 8).

    ½ [ᾱ_0 ‖u_y‖² − d ᾱ_0 − d log(1 − ᾱ_0)].
    """
    d = u_y.shape[-1]
    return 0.5 * (alpha_bar_0 * u_y.square().sum(dim=-1).mean() - d * alpha_bar_0 - d * math.log1p(-alpha_bar_0))


def negative_elbo(
    schedule: Schedule, cross_entropy: float, kl: float, squared_errors: Sequence[float], eta: float = 1.0
) -> float:
    """Cross-entropy + KL + Σ_t ½ η (SNR(t) − SNR(t−1)) ‖û_t − u_y‖², in nats per sample.

    This is Eq. 8 with T · E_t written as the sum over all blocks. With η = 1 it bounds −log p(y | x) from above;
    with the run's η it is the value of the objective.

    Args:
        schedule: of T blocks.
        cross_entropy: the classifier's term.
        kl: the prior's term.
        squared_errors: E‖û_t − u_y‖² of block t = 1..T.
        eta: η.
    """
    gains = (schedule.snr_gain(t) for t in range(1, schedule.T + 1))
    return cross_entropy + kl + sum(0.5 * eta * gain * error for gain, error in zip(gains, squared_errors, strict=True))
