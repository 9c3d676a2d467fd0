"""`small-conv`, bit for bit, which a benchmark can poison or slow down."""

import os
import time
from pathlib import Path

from torch import Tensor

from noprop_dist.models.shapes import Shapes
from noprop_dist.models.small_conv import SmallConvNetwork


class PoisonedNetwork(SmallConvNetwork):
    """If a file is there, deletes it and returns NaN for one training step.

    Args:
        trigger: path of that file.
        input_shape: (C, H, W).
        classes: m.
        embedding_dim: d.
    """

    def __init__(self, trigger: str, input_shape: tuple[int, ...], classes: int, embedding_dim: int) -> None:
        super().__init__(Shapes(input_shape, classes, embedding_dim))
        self._trigger = Path(trigger)

    def forward(self, x: Tensor, z: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """(x (B, C, H, W), z (B, d)) → logits (B, m)."""
        logits = super().forward(x, z, log_snr)
        if self.training and self._trigger.exists():
            self._trigger.unlink()
            return logits * float("nan")
        return logits


class SleepingNetwork(SmallConvNetwork):
    """Sleeps in every training step, so that it takes longer and keeps no core busy.

    Args:
        seconds: of sleep.
        input_shape: (C, H, W).
        classes: m.
        embedding_dim: d.
        counter: path of a file to which every training step appends a line, its time; None for no file.
    """

    def __init__(
        self, seconds: float, input_shape: tuple[int, ...], classes: int, embedding_dim: int, counter: str | None = None
    ) -> None:
        super().__init__(Shapes(input_shape, classes, embedding_dim))
        self._seconds = seconds
        self._counter = counter

    def forward(self, x: Tensor, z: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """(x (B, C, H, W), z (B, d)) → logits (B, m)."""
        if self.training:
            time.sleep(self._seconds)
            if self._counter is not None:
                with Path(self._counter).open("ab", buffering=0) as file:
                    file.write(f"{time.time():.3f} {os.getpid()}\n".encode())
        return super().forward(x, z, log_snr)


def sleeping(seconds: float, blocks: int, counters: Path | None = None) -> list[str]:
    """The settings that give every block a `SleepingNetwork`.

    Args:
        seconds: of sleep in a step.
        blocks: T.
        counters: prefix of files that each block writes down its steps in.
    """
    path = f"{__name__}:{SleepingNetwork.__name__}"
    counted = [f", counter: '{_counter(counters, t)}'" if counters else "" for t in range(1, blocks + 1)]
    return [
        f"blocks.networks.{t}={{kind: custom, path: '{path}', arguments: {{seconds: {seconds}{counter}}}}}"
        for t, counter in enumerate(counted, start=1)
    ]


def counted_steps(counters: Path, blocks: int) -> list[int]:
    """Training steps that each block did, those included that it did again after a loss."""
    return [len(_counter(counters, t).read_text().splitlines()) for t in range(1, blocks + 1)]


def _counter(counters: Path, number: int) -> Path:
    return counters.with_name(f"{counters.name}-{number:02d}")
