"""A snapshot as two safetensors files: weights, and the optimiser's state beside them."""

import json

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from noprop_dist.storage.snapshot import Arrays, Snapshot

WEIGHTS = ".safetensors"
OPTIMIZER = ".optimizer.safetensors"
ENTRY = ".json"


def to_files(snapshot: Snapshot, name: str) -> dict[str, bytes]:
    """The content of the two files by name, `name` being block-03 or classifier."""
    facts = {"stage": str(snapshot.stage), "step": str(snapshot.step)}
    return {
        name + WEIGHTS: save(_contiguous(snapshot.weights), facts),
        name + OPTIMIZER: save(_contiguous(snapshot.optimizer), facts | {"settings": snapshot.settings}),
    }


def from_files(weights: bytes, optimizer: bytes) -> Snapshot:
    """Read back what `to_files` made.

    Raises:
        ValueError: the bytes are no such files.
    """
    try:
        arrays, optimizer_arrays = load(weights), load(optimizer)
        facts = _metadata(optimizer)
        return Snapshot(int(facts["stage"]), int(facts["step"]), arrays, optimizer_arrays, facts["settings"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"no snapshot: {error}") from error


def _contiguous(arrays: Arrays) -> Arrays:
    return {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in sorted(arrays.items())}


def _metadata(content: bytes) -> dict[str, str]:
    # The safetensors library reads metadata from files only; the header is length-prefixed JSON.
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + length])
    return header["__metadata__"]
