"""The samples of one split on one device, ready to be gathered into batches."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noprop_dist.data.augmentation import Augmentation
from noprop_dist.data.dataset import DataFacts
from noprop_dist.data.inputs import Inputs

BATCHES_AHEAD = 2
Indices = NDArray[np.integer[Any]]
Stored = TypeVar("Stored", NDArray[Any], Tensor)


class Samples:
    """Inputs as they are stored; a batch of them is gathered, augmented and normalised on the device.

    On the CPU the array is used where it lies (an array in Ray's object store is mapped, not copied). On a GPU all
    inputs are copied to the device once, if they fit; else each batch is gathered on the CPU and copied. Blocks that
    are trained at the same time may share one object.

    Args:
        inputs: (N, C, H, W) uint8 or (N, …) float32.
        facts: mean and standard deviation to normalise with.
        device: of the batches.
        augmentation: applied to training batches.
    """

    def __init__(
        self, inputs: Inputs, facts: DataFacts, device: torch.device, augmentation: Augmentation | None = None
    ) -> None:
        self._inputs = inputs
        self._device = device
        self._resident = _resident(inputs, device)
        self._augmentation = augmentation
        broadcast = (-1, *[1] * (len(facts.input_shape) - 1))
        self._mean = torch.tensor(facts.mean, dtype=torch.float32, device=device).reshape(broadcast)
        self._std = torch.tensor(facts.std, dtype=torch.float32, device=device).reshape(broadcast)

    def batch(self, indices: Indices) -> Tensor:
        """The samples of these indices (B,), normalised and not augmented: (B, …) float32 on the device."""
        return self.normalise(next(self._stored(indices[None])))

    def read(self, indices: Indices, epochs: NDArray[np.int32]) -> Iterator[Tensor]:
        """The training batches of a round, one after another, augmented if this object augments.

        Args:
            indices: (K, B).
            epochs: of each batch, (K,).

        Yields:
            (B, …) as stored, on the device; `normalise` is left to the step.
        """
        for stored, row, epoch in zip(self._stored(indices), indices, epochs.tolist(), strict=True):
            yield self._augmented(stored, row, epoch)

    def normalise(self, raw: Tensor) -> Tensor:
        """(B, …) uint8 or float32 as stored → float32 with mean 0 and standard deviation 1 per channel."""
        x = raw.to(torch.float32)
        if raw.dtype == torch.uint8:
            x = x / 255
        return (x - self._mean) / self._std

    def _stored(self, indices: Indices) -> Iterator[Tensor]:
        """Batches of the samples of these indices (K, B), on the device."""
        if self._resident is None:
            return (copied(self._gathered(row), self._device) for row in indices)
        resident = self._resident
        return (resident.index_select(0, row) for row in to_device(indices, torch.int64, self._device))

    def _gathered(self, indices: Indices) -> Tensor:
        """The samples of these indices, in host memory."""
        return torch.from_numpy(self._inputs[indices])

    def _augmented(self, raw: Tensor, indices: Indices, epoch: int) -> Tensor:
        return raw if self._augmentation is None else self._augmentation(raw, indices, epoch)


class ReadAhead(Samples):
    """Samples whose next batches are read and augmented in a thread while the present one is trained on.

    On a GPU only reading is done ahead; the rest is done on the step's own stream.

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


def fitted(images: Stored, shape: tuple[int, ...]) -> Stored:
    """Images (N, H, W), or with channels last, as a network takes samples of this shape; whatever else as it is."""
    if len(shape) != 3 or images.shape[1:] == shape:
        return images
    if images.shape[1:] == shape[1:] and shape[0] == 1:
        return images[:, None]
    if images.shape[1:] == (*shape[1:], shape[0]):
        return images.swapaxes(1, 3).swapaxes(2, 3)
    return images


def to_device(array: NDArray[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A copy of an array on a device; the copy to a GPU goes on while the host does something else."""
    return copied(torch.tensor(array, dtype=dtype), device)


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of host memory on a device; on the CPU itself."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _resident(inputs: Inputs, device: torch.device) -> Tensor | None:
    """All samples on the GPU, if they fit into half of its free memory; else None."""
    if device.type != "cuda":
        return None
    free_bytes, _ = torch.cuda.mem_get_info(device)
    if inputs.nbytes >= free_bytes // 2:
        return None
    resident = torch.from_numpy(np.array(inputs[:])).to(device)
    torch.cuda.synchronize(device)  # other streams will read it
    return resident
