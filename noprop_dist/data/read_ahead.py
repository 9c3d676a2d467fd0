"""The next batches of a round are read and augmented in a thread while the present one is trained on."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noprop_dist.data.augmentation import Augmentation
from noprop_dist.data.dataset import DataFacts
from noprop_dist.data.inputs import Inputs
from noprop_dist.data.samples import Indices, Samples, copied

BATCHES_AHEAD = 2


class ReadAhead(Samples):
    """The batches of `Samples`, read ahead. On a GPU only reading is done ahead; the rest is done on the step's stream.

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

    def read(self, indices: Indices, epochs: NDArray[np.int32]) -> Iterator[Tensor]:
        """See `Samples.read`."""
        if self._resident is not None:
            yield from super().read(indices, epochs)
            return
        on_host = self._device.type != "cuda"
        batches = zip(indices, epochs.tolist(), strict=True)

        def gather(row: Indices, epoch: int) -> Tensor:
            gathered = self._gathered(row)
            return self._augmented(gathered, row, epoch) if on_host else gathered

        ahead: deque[tuple[Indices, int, Future[Tensor]]] = deque()

        def read(number: int) -> None:
            for row, epoch in islice(batches, number):
                ahead.append((row, epoch, self._thread.submit(gather, row, epoch)))

        read(BATCHES_AHEAD)
        while ahead:
            row, epoch, future = ahead.popleft()
            batch = future.result()
            read(1)
            yield batch if on_host else self._augmented(copied(batch, self._device), row, epoch)
