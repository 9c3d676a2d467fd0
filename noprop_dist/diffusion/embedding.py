"""Class embeddings W_embed (m × d): row y is u_y."""

import torch
from torch import Tensor, nn


def onehot_embedding(classes: int) -> Tensor:
    """The identity: fixed, d = m. Returns (m, m) float32."""
    return torch.eye(classes)


def random_embedding(classes: int, dim: int, seed: int) -> Tensor:
    """A start for learned embeddings: orthonormal rows where d ≥ m, else rows of about unit length.

    Returns:
        (m, d) float32, a function of the arguments alone.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(classes, dim, generator=generator)
    return nn.init.orthogonal_(normal, generator=generator) if dim >= classes else normal / dim**0.5


def nearest_class(z: Tensor, embedding: Tensor) -> Tensor:
    """The class whose embedding lies nearest to z.

    Args:
        z: (B, d).
        embedding: W_embed, (m, d).

    Returns:
        Class indices, (B,) int64.
    """
    # ‖z − u‖² = ‖z‖² − 2 z·u + ‖u‖², and the first term is the same for every class.
    return (embedding.square().sum(dim=-1) - 2 * z @ embedding.T).argmin(dim=-1)
