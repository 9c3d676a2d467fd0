"""Layers that more than one network shares: linear + batch norm (+ ReLU), and the path of z."""

from torch import Tensor, nn


def linear_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    """Linear, batch norm, ReLU: (B, inputs) → (B, outputs)."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())


class LabelPath(nn.Module):
    """The paper's path of z_{t-1}: h = ReLU(BN(linear(z))), then h plus a residual of two layers (Figure 6)."""

    def __init__(self, embedding_dim: int, width: int) -> None:
        super().__init__()
        self.enter = linear_norm_relu(embedding_dim, width)
        self.residual = nn.Sequential(linear_norm_relu(width, width), nn.Linear(width, width), nn.BatchNorm1d(width))

    def forward(self, z: Tensor) -> Tensor:
        """(B, d) → (B, width)."""
        h: Tensor = self.enter(z)
        residual: Tensor = self.residual(h)
        return h + residual
