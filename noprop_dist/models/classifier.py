"""The classifier p̂_out(y | z_T): linear (Eq. 14) or radial (Eqs. 15 and 16). The softmax is in the loss."""

import torch
from torch import Tensor, nn


class LinearClassifier(nn.Linear):
    """Scores f(z_T), f linear (Eq. 14)."""

    def forward(self, z_T: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ARG002
        """(z_T (B, d), W_embed (m, d)) → scores (B, m); W_embed is not used."""
        return super().forward(z_T)


class RadialClassifier(nn.Module):
    """Scores −‖ỹ − u_c‖² / 2σ² with ỹ = softmax(f(z_T)) · W_embed, f linear (Eqs. 15 and 16).

    Args:
        embedding_dim: d.
        classes: m.
        sigma: σ.
    """

    def __init__(self, embedding_dim: int, classes: int, sigma: float) -> None:
        super().__init__()
        self.f = nn.Linear(embedding_dim, classes)
        self._sigma = sigma

    def forward(self, z_T: Tensor, embedding: Tensor) -> Tensor:
        """(z_T (B, d), W_embed (m, d)) → scores (B, m)."""
        y = torch.softmax(self.f(z_T), dim=-1) @ embedding
        squared_distance = (y[:, None] - embedding[None]).square().sum(dim=-1)
        return -squared_distance / (2 * self._sigma**2)
