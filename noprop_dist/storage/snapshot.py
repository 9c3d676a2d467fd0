"""The state of one stage (a block, or the classifier) at one step, and the fingerprint of its weights."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Snapshot:
    """Everything that a stage needs to go on from a step as if nothing had happened.

    Random state is not part of it: every random number is keyed by (seed, stage, step).

    Attributes:
        stage: block number 1..T, T + 1 for the classifier, or T + 2 for a learned W_embed.
        step: optimiser steps done.
        weights: parameters and buffers by name, in their own dtypes.
        optimizer: the optimiser's tensors, "<parameter index>.<name>".
        settings: JSON of the optimiser's parameter group and the learning-rate schedule's state.
    """

    stage: int
    step: int
    weights: Arrays
    optimizer: Arrays
    settings: str

    @property
    def nbytes(self) -> int:
        """Of all its arrays."""
        return sum(array.nbytes for array in (*self.weights.values(), *self.optimizer.values()))

    def fingerprint(self) -> str:
        """See `weights_sha256`."""
        return weights_sha256(self.weights)


def weights_sha256(weights: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, array in sorted(weights.items()):
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def to_arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """Copies of tensors in host memory."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


def to_tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Copies of arrays as tensors (arrays from the object store are read-only)."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
