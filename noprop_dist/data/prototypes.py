"""The most typical image of each class, where prototype embeddings begin."""

import numpy as np
import torch
from numpy.typing import NDArray

from noprop_dist.data.dataset import Split

CHUNK_BYTES = 64 * 2**20
"""Distances in memory at a time; never those of all pairs of a class."""


def prototype_indices(split: Split, classes: int) -> NDArray[np.int64]:
    """For each class, the sample with the smallest median distance to the others of its class (paper, section 4).

    Squared distances of uint8 images are integers, which float64 holds exactly. So all machines choose the same.

    Args:
        split: that is learned from.
        classes: m; every class has at least one sample.

    Returns:
        (m,) indices into the split; of equally typical samples the first.
    """
    members = (np.flatnonzero(split.labels == label) for label in range(classes))
    return np.array([each[_most_typical(split.inputs[each])] for each in members])


def _most_typical(samples: NDArray[np.uint8] | NDArray[np.float32]) -> int:
    x = torch.from_numpy(samples.reshape(len(samples), -1).astype(np.float64))
    squares = x.square().sum(dim=1)
    others = len(x) - 1
    if others < 2:
        return 0
    rows = max(1, CHUNK_BYTES // (8 * len(x)))
    medians = []
    for first in range(0, len(x), rows):
        part = x[first : first + rows]
        distances = (squares[first : first + rows, None] - 2 * part @ x.T + squares).clamp(min=0).sqrt()
        distances[torch.arange(len(part)), torch.arange(first, first + len(part))] = -1  # to itself, sorted to place 0
        middle = 1 + (others - 1) // 2, 1 + others // 2
        ordered = np.partition(distances.numpy(), middle, axis=1)
        medians.append((ordered[:, middle[0]] + ordered[:, middle[1]]) / 2)
    return int(np.concatenate(medians).argmin())
