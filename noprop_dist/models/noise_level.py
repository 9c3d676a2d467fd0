"""What a network is told of the noise level of its z: λ = ln SNR, for blocks that own a range of levels."""

import math

import torch
from torch import Tensor, nn

from noprop_dist.models.shapes import Shapes

WAVES = 8
LONGEST_WAVE = 32.0
"""In units of λ. Levels from ᾱ = 1e-4 to 1 − 1e-3 are 16 apart."""


class LevelFeatures(nn.Module):
    """Sines and cosines of λ at wavelengths of 32, 32/√2, …, 2.8 units, so that levels near each other look alike."""

    frequencies: Tensor
    phases: Tensor
    size = 2 * WAVES

    def __init__(self) -> None:
        super().__init__()
        frequencies = 2 * math.pi / LONGEST_WAVE * 2 ** (0.5 * torch.arange(WAVES))
        self.register_buffer("frequencies", frequencies.repeat(2), persistent=False)
        self.register_buffer("phases", torch.tensor([0.0, math.pi / 2]).repeat_interleave(WAVES), persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        """λ (B,) → (B, 16)."""
        return torch.sin(log_snr[:, None] * self.frequencies + self.phases)


def level_features(shapes: Shapes) -> LevelFeatures | None:
    """What a network that is told λ reads of it; None for one that is not."""
    return LevelFeatures() if shapes.takes_level else None


def level_width(shapes: Shapes) -> int:
    """How many features of λ a network reads."""
    return LevelFeatures.size if shapes.takes_level else 0
