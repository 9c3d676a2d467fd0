"""Class embeddings W_embed (m × d): row y is u_y."""

import torch
from torch import Tensor


def onehot_embedding(classes: int) -> Tensor:
    """The identity: fixed, d = m. Returns (m, m) float32."""
    return torch.eye(classes)


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
