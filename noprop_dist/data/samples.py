"""The samples of one split on one device, ready to be gathered into batches."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noprop_dist.data.augmentation import Augmentation
from noprop_dist.data.dataset import DataFacts
from noprop_dist.data.inputs import Inputs


class Samples:
    """Inputs that stay as they are stored; a batch of them is gathered, augmented and normalised on the device.

    On the CPU the array is used where it lies (an array in Ray's object store is mapped, not copied). On a GPU it is
    copied to the device once if it fits; else batches are gathered on the CPU and copied one by one.

    Args:
        inputs: (N, C, H, W) uint8 or (N, …) float32.
        facts: mean and standard deviation to normalise with.
        device: where batches are wanted.
        augmentation: applied to training batches.
    """

    def __init__(
        self, inputs: Inputs, facts: DataFacts, device: torch.device, augmentation: Augmentation | None = None
    ) -> None:
        self._inputs = inputs
        self._device = device
        self._on_device = _resident(inputs, device)
        self._augmentation = augmentation
        broadcast = (-1, *[1] * (len(facts.input_shape) - 1))
        self._mean = torch.tensor(facts.mean, dtype=torch.float32, device=device).reshape(broadcast)
        self._std = torch.tensor(facts.std, dtype=torch.float32, device=device).reshape(broadcast)

    def batch(self, indices: NDArray[np.integer[Any]], epoch: int | None = None) -> Tensor:
        """The normalised samples of these indices.

        Args:
            indices: (B,).
            epoch: of a training batch, which is augmented where that is asked for; None leaves samples as they are.

        Returns:
            (B, …) float32 on the device.
        """
        if self._on_device is None:
            raw = torch.from_numpy(self._inputs[indices])
            if self._device.type == "cuda":
                raw = raw.pin_memory().to(self._device, non_blocking=True)
        else:
            raw = self._on_device[torch.from_numpy(indices.astype(np.int64)).to(self._on_device.device)]
        if self._augmentation is not None and epoch is not None:
            raw = self._augmentation(raw, indices, epoch)
        return self.normalise(raw)

    def normalise(self, raw: Tensor) -> Tensor:
        """(B, …) uint8 or float32 as stored → float32 with mean 0 and standard deviation 1 per channel."""
        x = raw.to(torch.float32)
        if raw.dtype == torch.uint8:
            x = x / 255
        return (x - self._mean) / self._std


def _resident(inputs: Inputs, device: torch.device) -> Tensor | None:
    """All samples on a GPU that has room for them; None where they stay on the CPU's side."""
    if device.type != "cuda":
        return None
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return torch.from_numpy(np.array(inputs[:])).to(device) if inputs.nbytes < free_bytes // 2 else None
