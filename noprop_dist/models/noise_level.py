"""What a network is told of the noise level of its z: λ = ln SNR, for blocks that own a range of levels."""

import math

import torch
from torch import Tensor, nn

from noprop_dist.models.shapes import Shapes

WAVES = 16
LONGEST_WAVE = 32.0
"""In units of λ. Levels from ᾱ = 1e-4 to 1 − 1e-3 are 16 apart."""


class LevelFeatures(nn.Module):
    """Sines and cosines of λ at wavelengths of 32, 32/√2, 16, … units, so that levels near each other look alike."""

    frequencies: Tensor
    size = 2 * WAVES

    def __init__(self) -> None:
        super().__init__()
        octaves = 0.5 * torch.arange(WAVES)
        self.register_buffer("frequencies", 2 * math.pi / LONGEST_WAVE * 2**octaves, persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        """λ (B,) → (B, 32)."""
        phases = log_snr[:, None] * self.frequencies
        return torch.cat([phases.sin(), phases.cos()], dim=1)


class LevelModulation(nn.Module):
    """Scales and shifts features by what it makes of λ. It begins as the identity (AdaLN-zero, arXiv 2212.09748).

    Args:
        width: of the features.
        hidden: width of its one hidden layer.
    """

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.path = nn.Sequential(
            LevelFeatures(), nn.Linear(LevelFeatures.size, hidden), nn.SiLU(), nn.Linear(hidden, 2 * width)
        )
        for parameter in self.path[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, log_snr: Tensor) -> Tensor:
        """(features (B, width), λ (B,)) → (B, width)."""
        scale, shift = self.path(log_snr).chunk(2, dim=1)
        modulated: Tensor = features * (1 + scale) + shift
        return modulated


def level_modulation(shapes: Shapes, width: int) -> LevelModulation | None:
    """The modulation of a network that is told λ; None for one that is not."""
    return LevelModulation(width) if shapes.takes_level else None
