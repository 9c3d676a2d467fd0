"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 through torchvision.datasets."""

import gzip
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from noprop_dist.config.schema import DataSettings
from noprop_dist.data.dataset import DataSet, Split, assemble
from noprop_dist.data.inputs import Keep, in_memory
from noprop_dist.errors import UserError
from noprop_dist.files import local_path

Moments = tuple[tuple[float, ...], tuple[float, ...]]

CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
FOLDERS = {**CLASSES, "cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""Where torchvision puts each of them, below its root."""
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
    with tempfile.TemporaryDirectory(prefix="noprop-dist-") as scratch:
        try:
            readable = _unpacked(root / CLASSES[name], Path(scratch)) or root
            training, test = (_torchvision_set(settings, readable, train=train) for train in (True, False))
        except Exception as error:  # torchvision raises many kinds, for missing, broken and unreachable files
            raise UserError(
                f"data.root={root}: {name} is not there as torchvision lays it out, or a file of it is broken"
                f"{', and downloading it failed' if settings.download else ', and it is not to be downloaded'}: "
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            ) from error
    names = tuple(str(label) for label in training.classes)
    return assemble(name, _split(training), _split(test), names, settings.validation_fraction, MOMENTS[name], keep)


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


def _unpacked(folder: Path, scratch: Path) -> Path | None:
    """Unpack IDX files that are there only as .gz into `scratch`, because the given root may be read-only."""
    packed = sorted((folder / "raw").glob("*-ubyte.gz"))
    if len(packed) < 4 or all(file.with_suffix("").exists() for file in packed):
        return None
    target = scratch / folder.name / "raw"
    target.mkdir(parents=True)
    for file in packed:
        with gzip.open(file) as source, (target / file.stem).open("wb") as unpacked:
            shutil.copyfileobj(source, unpacked)
    return scratch


def _channels_first(images: Any) -> Any:
    """MNIST's (N, H, W) tensors and CIFAR's (N, H, W, C) arrays as (N, C, H, W) uint8 arrays."""
    array = np.asarray(images)
    return np.ascontiguousarray(array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2))
