"""MNIST's own files (IDX), packed or not."""

import gzip
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from noprop_dist.data.dataset import Split

FILES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
BYTES = b"\0\0\x08"
"""An IDX file of bytes begins so; the number of its dimensions and their sizes follow."""


def idx_splits(folder: Path) -> tuple[Split, Split] | None:
    """Training and test set; None unless the folder holds all four files, unpacked or as .gz.

    Raises:
        ValueError: a file is broken.
        OSError: likewise, or it cannot be read.
    """
    for suffix in ("", ".gz"):
        files = [folder / (name + suffix) for name in FILES]
        if all(file.is_file() for file in files):
            images, labels, test_images, test_labels = map(read_idx, files)
            return _split(images, labels), _split(test_images, test_labels)
    return None


def read_idx(file: Path) -> NDArray[np.uint8]:
    """The array of an IDX file of bytes.

    Raises:
        ValueError: it is none, or is shorter or longer than it says.
        OSError: it cannot be read or unpacked.
    """
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        content = stream.read()
    start = 4 + 4 * content[3] if content.startswith(BYTES) and len(content) > 3 else 0
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if not start or len(content) != start + prod(shape):
        raise ValueError(f"{file} is no IDX file of bytes, or is not whole")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _split(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Split:
    if images.ndim != 3 or labels.ndim != 1:
        raise ValueError(f"images of shape {images.shape} with labels of shape {labels.shape} are not MNIST's")
    return Split(images[:, None], labels.astype(np.int64))
