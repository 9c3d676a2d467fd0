"""The forward process q: how a class embedding u_y turns into noise (Eqs. 5 and 6).

The functions work on NumPy arrays and on torch tensors alike and keep their dtype.
"""

from typing import TypeVar

import numpy as np
import torch

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


def as_function_of_embedding(z_t: torch.Tensor, u_y: torch.Tensor, alpha_bar: float) -> torch.Tensor:
    """The same values of z_t, which autograd then takes as √ᾱ_t u_y + √(1 − ᾱ_t) ε (Eq. 6).

    Args:
        z_t: a sample of q(z_t | y) that was drawn elsewhere, (B, d).
        u_y: the class embeddings that it was drawn from, (B, d).
        alpha_bar: ᾱ_t.
    """
    same_z_t: torch.Tensor = z_t + alpha_bar**0.5 * (u_y - u_y.detach())
    return same_z_t
