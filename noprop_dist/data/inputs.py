"""The samples of a split: an array in memory, a file that is mapped, or files that are not read yet."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from noprop_dist.errors import UserError, why
from noprop_dist.files import open_file

CHUNK_BYTES = 16 * 2**20


class Inputs(Protocol):
    """(N, C, H, W) uint8 images or (N, …) float32; `np.asarray(inputs[first:last])` reads some of them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, …)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one value."""

    @property
    def nbytes(self) -> int:
        """Of all samples."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Some of the samples, by slice or by an array of indices."""


Keep = Callable[[str, Inputs], Inputs]
"""Stores samples: (name of the split, its samples) → its samples where they are from now on."""


def check_memory(nbytes: int, what: str) -> None:
    """Refuse what is larger than this machine's memory, before any of it is taken.

    Raises:
        UserError: as described.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if nbytes > memory:
        raise UserError(
            f"{what}: takes {nbytes / 2**30:,.1f} GiB, this machine has {memory / 2**30:,.1f} GiB of memory; "
            "`noprop-dist pack` makes a data set that is mapped and not read"
        )


def in_memory(_: str, inputs: Inputs) -> Inputs:
    """Read all samples."""
    return np.ascontiguousarray(inputs)


def chunks(inputs: Inputs) -> Iterator[NDArray[Any]]:
    """The samples one part after another; the parts depend on the size of a sample alone."""
    rows = max(1, CHUNK_BYTES * len(inputs) // max(1, inputs.nbytes))
    for first in range(0, len(inputs), rows):
        yield np.asarray(inputs[first : first + rows])


class MappedInputs:
    """Samples in a .npy file that is mapped and not read: they may be larger than memory.

    A node's memory holds the pages in use once for all of its processes. Only the path is pickled: each process maps
    the file where it is.

    Args:
        path: of the file, on storage that every node reaches.

    Raises:
        UserError: there is no such file, or it is truncated.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            with open_file(Path(path)):  # neither a pipe nor a device
                self._array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # numpy raises many kinds on a damaged header
            raise UserError(
                f"{path}: cannot be mapped on {socket.gethostname()}: {why(error)}; a packed data set has to lie, "
                "whole, under the same path on every node"
            ) from error

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, …)."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one value."""
        return self._array.dtype

    @property
    def nbytes(self) -> int:
        """Of all samples."""
        return self._array.nbytes

    def __len__(self) -> int:
        """N."""
        return len(self._array)

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        """Read some of the samples."""
        return np.asarray(self._array[rows])

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedInputs, (self._path,)
