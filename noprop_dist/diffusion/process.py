"""The forward process q: how a class embedding u_y turns into noise (Eqs. 5 and 6).

The functions work on NumPy arrays and on torch tensors alike and keep their dtype.
"""

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Array = TypeVar("Array", torch.Tensor, np.ndarray)


def noisy_embedding(u_y: Array, epsilon: Array, alpha_bar: float) -> Array:
    """A sample of q(z_t | y) = N(√ᾱ_t u_y, (1 − ᾱ_t) I) (Eq. 6).

    Args:
        u_y: class embeddings, (B, d).
        epsilon: standard normal noise, (B, d).
        alpha_bar: ᾱ_t.
    """
    z_t: Array = alpha_bar**0.5 * u_y + (1 - alpha_bar) ** 0.5 * epsilon
    return z_t


def one_step_noisier(z_t: Array, epsilon: Array, alpha: float) -> Array:
    """A sample of q(z_{t-1} | z_t) = N(√α_{t-1} z_t, (1 − α_{t-1}) I) (Eq. 5).

    Args:
        z_t: (B, d).
        epsilon: standard normal noise, (B, d).
        alpha: α_{t-1}.
    """
    z_before: Array = alpha**0.5 * z_t + (1 - alpha) ** 0.5 * epsilon
    return z_before


def noisy_embedding_at(u_y: Array, epsilon: Array, alpha_bar: NDArray[np.float64]) -> Array:
    """Samples of N(√ᾱ u_y, (1 − ᾱ) I), each at a level of its own; bits are those of `noisy_embedding` at that level.

    Args:
        u_y: class embeddings, (B, d).
        epsilon: standard normal noise, (B, d).
        alpha_bar: ᾱ of each sample, (B,).
    """
    signal, noise = (_like(u_y, share[:, None] ** 0.5) for share in (alpha_bar, 1 - alpha_bar))
    z: Array = signal * u_y + noise * epsilon
    return z


def _like(values: Array, shares: NDArray[np.float64]) -> Array:
    """Shares as an array of the kind, dtype and device of values."""
    if isinstance(values, torch.Tensor):
        return torch.from_numpy(shares).to(values)
    return shares.astype(values.dtype)


def as_function_of_embedding(
    z_t: torch.Tensor, u_y: torch.Tensor, root_alpha_bar: float | torch.Tensor
) -> torch.Tensor:
    """The same values of z_t, which autograd then takes as √ᾱ_t u_y + √(1 − ᾱ_t) ε (Eq. 6).

    Args:
        z_t: a sample of q(z_t | y) that was drawn elsewhere, (B, d).
        u_y: the class embeddings that it was drawn from, (B, d).
        root_alpha_bar: √ᾱ_t, or that of each sample, (B, 1).
    """
    same_z_t: torch.Tensor = z_t + root_alpha_bar * (u_y - u_y.detach())
    return same_z_t
