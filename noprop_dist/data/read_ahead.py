"""The next batches of a round are read and augmented in a thread while the present one is trained on."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noprop_dist.data.augmentation import Augmentation
from noprop_dist.data.dataset import DataFacts
from noprop_dist.data.inputs import Inputs
from noprop_dist.data.samples import Samples

BATCHES_AHEAD = 2


class ReadAhead(Samples):
    """Samples that are told which batches will be asked for: the same batches, sooner.

    Args:
        inputs: as for `Samples`.
        facts: likewise.
        device: likewise.
        augmentation: likewise.
    """

    def __init__(
        self, inputs: Inputs, facts: DataFacts, device: torch.device, augmentation: Augmentation | None = None
    ) -> None:
        super().__init__(inputs, facts, device, augmentation)
        self._thread = ThreadPoolExecutor(1, "read-ahead", initializer=lambda: torch.set_num_threads(1))
        self._coming: Iterator[tuple[NDArray[np.integer[Any]], int]] = iter(())
        self._ahead: deque[Future[Tensor]] = deque()

    def expect(self, indices: NDArray[np.int32], epochs: NDArray[np.int32]) -> None:
        """From now on these batches will be asked for, in this order; what was expected before is not any more.

        Args:
            indices: (K, B).
            epochs: (K,).
        """
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._coming = iter(zip(indices, epochs.tolist(), strict=True))
        for _ in range(BATCHES_AHEAD):
            self._read_one_more()

    def batch(self, indices: NDArray[np.integer[Any]], epoch: int | None = None) -> Tensor:
        """See `Samples.batch`."""
        if not self._ahead:
            return super().batch(indices, epoch)
        batch = self._ahead.popleft().result()
        self._read_one_more()
        return batch

    def _read_one_more(self) -> None:
        following = next(self._coming, None)
        if following is not None:
            self._ahead.append(self._thread.submit(super().batch, *following))
