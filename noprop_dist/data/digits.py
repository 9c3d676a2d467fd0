"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8×8 pixels."""

import numpy as np

from noprop_dist.data.dataset import DataSet, Split, assemble, split_off
from noprop_dist.data.inputs import Keep, in_memory


def load_digits(validation_fraction: float, keep: Keep = in_memory) -> DataSet:
    """A fifth of every class is the test set, the same in every run; grey levels 0..16 become 0..255."""
    from sklearn.datasets import load_digits as bundled_digits

    bunch = bundled_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    training, test = split_off(Split(images, bunch.target.astype(np.int64)), 0.2)
    names = tuple(str(digit) for digit in range(10))
    return assemble("digits", training, test, names, validation_fraction, ((0.3053,), (0.3761,)), keep)
