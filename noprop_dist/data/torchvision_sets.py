"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 as torchvision lays them out."""

from pathlib import Path
from typing import Any

import numpy as np

from noprop_dist.config.schema import DataSettings
from noprop_dist.data.dataset import DataSet, Split, assemble
from noprop_dist.data.idx import idx_splits
from noprop_dist.data.inputs import Keep, in_memory
from noprop_dist.errors import UserError
from noprop_dist.files import local_path

Moments = tuple[tuple[float, ...], tuple[float, ...]]

CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
FOLDERS = {**CLASSES, "cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""Where torchvision puts each of them, below its root."""
NAMES = {
    "mnist": "0 - zero, 1 - one, 2 - two, 3 - three, 4 - four, 5 - five, 6 - six, 7 - seven, 8 - eight, 9 - nine",
    "fashion-mnist": "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot",
}
"""Of the classes of the sets in IDX files, as torchvision calls them."""
MOMENTS: dict[str, Moments] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def would_download(settings: DataSettings) -> bool:
    """Return True if loading the data would write below `data.root`, which the settings name."""
    if settings.root is None or not may_download(settings):
        return False
    return not (local_path(settings.root) / FOLDERS[settings.name]).exists()


def may_download(settings: DataSettings) -> bool:
    """Return True if loading the data would write below `data.root` where it is not there."""
    return settings.root is not None and settings.download and settings.name in FOLDERS


def load_torchvision(settings: DataSettings, keep: Keep = in_memory) -> DataSet:
    """Read (and download, where allowed) one of torchvision's data sets.

    Raises:
        UserError: files are missing and could not be downloaded, or cannot be read.
    """
    name, root = settings.name, local_path(settings.root or "data")
    try:
        training, test, names = _idx(name, root) or _through_torchvision(settings, root)
    except Exception as error:  # torchvision raises many kinds, for missing, broken and unreachable files
        raise UserError(
            f"data.root={root}: {name} is not there as torchvision lays it out, or a file of it is broken"
            f"{', and downloading it failed' if settings.download else ', and it is not to be downloaded'}: "
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        ) from error
    return assemble(name, training, test, names, settings.validation_fraction, MOMENTS[name], keep)


def _idx(name: str, root: Path) -> tuple[Split, Split, tuple[str, ...]] | None:
    """The splits of a set whose IDX files are there: to import torchvision takes longer than to read them."""
    splits = idx_splits(root / FOLDERS[name] / "raw") if name in NAMES else None
    return None if splits is None else (*splits, tuple(NAMES[name].split(", ")))


def _through_torchvision(settings: DataSettings, root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    training, test = (_torchvision_set(settings, root, train=train) for train in (True, False))
    return _split(training), _split(test), tuple(str(label) for label in training.classes)


def _torchvision_set(settings: DataSettings, root: Path, train: bool) -> Any:
    import torchvision.datasets

    dataset_class = getattr(torchvision.datasets, CLASSES[settings.name])
    try:
        return dataset_class(root, train=train, download=False)
    except RuntimeError:
        if not settings.download:
            raise
        return dataset_class(root, train=train, download=True)


def _split(dataset: Any) -> Split:
    return Split(_channels_first(dataset.data), np.asarray(dataset.targets, dtype=np.int64))


def _channels_first(images: Any) -> Any:
    """MNIST's (N, H, W) tensors and CIFAR's (N, H, W, C) arrays as (N, C, H, W) uint8 arrays."""
    array = np.asarray(images)
    return np.ascontiguousarray(array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2))
