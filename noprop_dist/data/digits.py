"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8×8 pixels."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from noprop_dist.data.dataset import DataSet, Split, assemble, split_off
from noprop_dist.data.inputs import Keep, in_memory


def load_digits(validation_fraction: float, keep: Keep = in_memory) -> DataSet:
    """A fifth of every class is the test set, the same in every run; grey levels 0..16 become 0..255."""
    table = _table()
    images = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)[:, None]
    training, test = split_off(Split(images, table[:, -1].astype(np.int64)), 0.2)
    names = tuple(str(digit) for digit in range(10))
    return assemble("digits", training, test, names, validation_fraction, ((0.3053,), (0.3761,)), keep)


def _table() -> NDArray[np.float64]:
    """(1797, 65): the pixels of an image in rows, and its digit. To import scikit-learn for it takes a second."""
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt") as lines:
                return np.loadtxt(lines, delimiter=",")
    from sklearn.datasets import load_digits as bundled_digits

    bunch = bundled_digits()
    return np.column_stack([bunch.data, bunch.target])
