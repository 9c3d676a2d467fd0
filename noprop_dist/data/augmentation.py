"""Random crops and flips of training images, keyed by (seed, epoch, sample)."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from noprop_dist.config.schema import AugmentSettings
from noprop_dist.errors import UserError
from noprop_dist.random_streams import Purpose, stream

EPOCHS_KEPT = 4
"""Blocks run free and may be in different epochs."""


class Augmentation:
    """Changes each sample anew in every epoch, in the same way for every block, batch and worker.

    torchvision's transforms are not used: they draw one change for a whole batch, from a generator that threads share.

    Args:
        seed: of the run.
        samples: N, of the training split.
        crop_padding: pixels of zeros around the image, from which it is cropped back.
        flip: mirror left-right with probability 1/2.
    """

    def __init__(self, seed: int, samples: int, crop_padding: int, flip: bool) -> None:
        self._seed = seed
        self._samples = samples
        self._padding = crop_padding
        self._sides = 2 if flip else 1
        self._changes_of = lru_cache(EPOCHS_KEPT)(self._draw_changes)

    def __call__(self, images: Tensor, indices: NDArray[np.integer[Any]], epoch: int) -> Tensor:
        """Augment (B, C, H, W) uint8 images, the samples `indices` (B,) in `epoch`, on their device."""
        changes = torch.from_numpy(self._changes_of(epoch)[indices].astype(np.int64)).to(images.device)
        down, right, mirrored = changes[:, :, None].unbind(dim=1)
        batch, channels, height, width = images.shape
        columns = torch.arange(width, device=images.device)
        columns = right + torch.where(mirrored == 1, width - 1 - columns, columns)
        rows = down + torch.arange(height, device=images.device)
        sample = torch.arange(batch, device=images.device)[:, None, None, None]
        channel = torch.arange(channels, device=images.device)[None, :, None, None]
        return F.pad(images, (self._padding,) * 4)[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]

    def _draw_changes(self, epoch: int) -> NDArray[np.int16]:
        """(N, 3): rows and columns to crop away at the top left, and whether to mirror."""
        bounds = (2 * self._padding + 1, 2 * self._padding + 1, self._sides)
        draws = stream(self._seed, Purpose.AUGMENTATION, epoch=epoch).integers(bounds, size=(self._samples, 3))
        return draws.astype(np.int16)


def build_augmentation(
    settings: AugmentSettings, seed: int, samples: int, input_shape: tuple[int, ...]
) -> Augmentation | None:
    """The augmentation that the settings ask for, or None.

    Raises:
        UserError: they ask for one, and the samples are not images.
    """
    if not (settings.crop_padding or settings.flip):
        return None
    if len(input_shape) != 3:
        raise UserError(f"data.augment: needs images, the data has samples of shape {input_shape}")
    return Augmentation(seed, samples, settings.crop_padding, settings.flip)
