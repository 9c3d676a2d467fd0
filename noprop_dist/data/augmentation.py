"""Random crops and flips of training images, keyed by (seed, epoch, sample)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noprop_dist.configuration.settings import AugmentSettings
from noprop_dist.errors import UserError
from noprop_dist.random_streams import Purpose, stream_seed


class Augmentation:
    """What one sample becomes in one epoch is the same for every block, batch and worker.

    Args:
        seed: of the run.
        transform: of torchvision.transforms.v2, drawing from torch's default generator.
    """

    def __init__(self, seed: int, transform: Any) -> None:
        self._seed = seed
        self._transform = transform

    def __call__(self, images: Tensor, indices: NDArray[np.integer[Any]], epoch: int) -> Tensor:
        """Augment (B, C, H, W) uint8 images, the samples `indices` (B,) in `epoch`."""
        with torch.random.fork_rng(devices=[]):
            augmented = []
            for image, sample in zip(images, indices.tolist(), strict=True):
                seed = stream_seed(self._seed, Purpose.AUGMENTATION, epoch=epoch, step=sample)
                torch.default_generator.manual_seed(seed)
                augmented.append(self._transform(image))
        return torch.stack(augmented)


def build_augmentation(settings: AugmentSettings, seed: int, input_shape: tuple[int, ...]) -> Augmentation | None:
    """The augmentation that the settings ask for, None where they ask for none.

    Raises:
        UserError: the samples are no images.
    """
    if not (settings.crop_padding or settings.flip):
        return None
    if len(input_shape) != 3:
        raise UserError(f"data.augment: needs images, the data has samples of shape {input_shape}")
    from torchvision.transforms import v2

    steps: list[Any] = []
    if settings.crop_padding:
        steps.append(v2.RandomCrop(input_shape[1:], padding=settings.crop_padding))
    if settings.flip:
        steps.append(v2.RandomHorizontalFlip())
    return Augmentation(seed, v2.Compose(steps))
