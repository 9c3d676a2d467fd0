"""`small-conv`, bit for bit, with something that a benchmark can do to it."""

import time
from pathlib import Path

from torch import Tensor

from noprop_dist.models.shapes import Shapes
from noprop_dist.models.small_conv import SmallConvNetwork


class PoisonedNetwork(SmallConvNetwork):
    """Its logits are NaN in one training step if a file is there, which it takes away.

    Args:
        trigger: path of that file.
        input_shape: (C, H, W).
        classes: m.
        embedding_dim: d.
    """

    def __init__(self, trigger: str, input_shape: tuple[int, ...], classes: int, embedding_dim: int) -> None:
        super().__init__(Shapes(input_shape, classes, embedding_dim))
        self._trigger = Path(trigger)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """(x (B, C, H, W), z (B, d)) → logits (B, m)."""
        logits = super().forward(x, z)
        if self.training and self._trigger.exists():
            self._trigger.unlink()
            return logits * float("nan")
        return logits


class SleepingNetwork(SmallConvNetwork):
    """Every training step takes so many seconds longer, without a core being busy meanwhile.

    Args:
        seconds: of sleep.
        input_shape: (C, H, W).
        classes: m.
        embedding_dim: d.
    """

    def __init__(self, seconds: float, input_shape: tuple[int, ...], classes: int, embedding_dim: int) -> None:
        super().__init__(Shapes(input_shape, classes, embedding_dim))
        self._seconds = seconds

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """(x (B, C, H, W), z (B, d)) → logits (B, m)."""
        if self.training:
            time.sleep(self._seconds)
        return super().forward(x, z)
