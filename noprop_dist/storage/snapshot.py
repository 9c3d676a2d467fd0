"""The state of one stage at one step: in memory, and as two safetensors files."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor, nn

from noprop_dist.errors import UserError
from noprop_dist.files import JsonObject, json_form, parse_json
from noprop_dist.stages import CLASSIFIER, EMBEDDING, NETWORK, Stage, block

Arrays = dict[str, NDArray[Any]]
WEIGHTS = ".safetensors"
OPTIMIZER = ".optimizer.safetensors"
WEIGHTS_ALONE = ""
"""In place of a snapshot's settings: a stage begins with these weights at step 0, and with an optimiser of its own."""
NOT_BLOCKS = {stage.name: stage for stage in (CLASSIFIER, EMBEDDING, NETWORK)}


@dataclass(frozen=True)
class Snapshot:
    """Everything that a stage needs to go on from a step as if nothing had happened.

    Random state is not part of it: every random number is keyed by (seed, stage, step).

    Attributes:
        stage: whose state it is.
        step: optimiser steps done.
        weights: parameters and buffers by name, in their own dtypes; parameters are averages with `training.ema_decay`.
        optimizer: the optimiser's tensors, "<parameter index>.<name>", and what else training goes on from.
        settings: JSON of the optimiser's parameter group and the learning-rate schedule's state, or `WEIGHTS_ALONE`.
    """

    stage: Stage
    step: int
    weights: Arrays
    optimizer: Arrays
    settings: str

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
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


class DoesNotFitError(UserError):
    """A snapshot, whole by its checksums, is not of the network and optimiser that the run has now."""

    @classmethod
    def of(cls, snapshot: Snapshot, reason: str) -> "DoesNotFitError":
        return cls(
            f"the snapshot of {snapshot.stage.name} at step {snapshot.step} does not fit the run's network and "
            f"optimiser: {reason}"
        )


def check_fits(snapshot: Snapshot, network: nn.Module) -> None:
    """Check that a network has the weights of a snapshot, by name and shape.

    Raises:
        DoesNotFitError: it has others; names the first.
    """
    difference = first_difference(snapshot.weights, network)
    if difference is not None:
        name, was, wanted = difference
        raise DoesNotFitError.of(snapshot, f"{name} is {was} in the snapshot and {wanted} in the network")


def first_difference(weights: Mapping[str, NDArray[Any]], network: nn.Module) -> tuple[str, str, str] | None:
    """The first weight that a network lacks or has in another shape: its name, its shape, and that in the network."""
    there = {name: array.shape for name, array in weights.items()}
    here = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in dict.fromkeys([*here, *there]):
        if here.get(name) != there.get(name):
            was, wanted = (str(each[name]) if name in each else "not" for each in (there, here))
            return name, was, wanted
    return None


def load_weights(network: nn.Module, snapshot: Snapshot) -> None:
    """Put the weights of a snapshot into a network.

    Raises:
        DoesNotFitError: they are not of such a network.
    """
    with must_fit(snapshot):
        check_fits(snapshot, network)
        network.load_state_dict(to_tensors(snapshot.weights))


@contextmanager
def must_fit(snapshot: Snapshot) -> Iterator[None]:
    """Say of which snapshot it is, where something in a `with` cannot use one that is whole by its checksums.

    Raises:
        DoesNotFitError: as described.
    """
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DoesNotFitError.of(snapshot, reason if len(reason) <= 400 else f"{reason[:400]} …") from error


@contextmanager
def explaining_misfits(told: Sequence[str]) -> Iterator[None]:
    """Say beside a snapshot that does not fit what was found on the way, such as that a network's file has changed.

    Raises:
        UserError: as described.
    """
    try:
        yield
    except DoesNotFitError as error:
        raise UserError("; ".join((str(error), *told))) from error


def to_files(snapshot: Snapshot, blocks: int) -> dict[str, bytes]:
    """The content of the snapshot's two files by name, in a run of T = `blocks`."""
    name = snapshot.stage.file(blocks)
    facts = {key: str(value) for key, value in stage_facts(snapshot.stage, blocks).items()}
    facts["step"] = str(snapshot.step)
    return {
        name + WEIGHTS: _saved(snapshot.weights, facts),
        name + OPTIMIZER: _saved(snapshot.optimizer, facts | {"settings": snapshot.settings}),
    }


def _saved(arrays: Arrays, facts: dict[str, str]) -> bytes:
    """A safetensors file, the same bytes whenever it is made: safetensors itself orders metadata at random.

    A step that is done and saved again must match the manifest that its checkpoint already has.
    """
    content = save(_contiguous(arrays), facts)
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(content)[end:]))


def from_files(name: str, weights: bytes, optimizer: bytes | None = None) -> Snapshot:
    """Read back what `to_files` made.

    Args:
        name: the beginning of both files' names.
        weights: content of the file of weights.
        optimizer: content of the file of the optimiser's state; without it the snapshot is one of weights alone.

    Raises:
        ValueError: the contents are no such files.
    """
    try:
        arrays, optimizer_arrays = load(weights), {} if optimizer is None else load(optimizer)
        facts = {"settings": WEIGHTS_ALONE, **_metadata(weights if optimizer is None else optimizer)}
        if not facts["step"].isdecimal():
            raise ValueError(f"{facts['step']!r} is no number of steps")
        return Snapshot(stage_of(facts, name), int(facts["step"]), arrays, optimizer_arrays, facts["settings"])
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"no snapshot: {error}") from error


def stage_facts(stage: Stage, blocks: int) -> dict[str, Any]:
    """What a file says of its stage in a run of T = `blocks`: number, kind and index."""
    return {"stage": stage.number(blocks), "kind": stage.kind, "index": stage.index}


def stage_of(facts: Mapping[str, Any], name: str) -> Stage:
    """The stage of a file.

    Args:
        facts: what the file says of it. Files written before 2026-11-26 have only its number, under `stage`.
        name: the beginning of the file's name.

    Raises:
        ValueError: it is of another stage than the name, or something is missing.
    """
    named = NOT_BLOCKS.get(name) or block(int(name.removeprefix("block-")))
    kind = facts.get("kind", named.kind)
    says = f"block {facts['stage']}" if kind == "block" else kind
    if says != named.name:
        raise ValueError(f"it says that it is of {says}")
    return named


def _contiguous(arrays: Arrays) -> Arrays:
    return {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in sorted(arrays.items())}


def _metadata(content: bytes) -> JsonObject:
    # The safetensors library reads metadata from files only; the header is length-prefixed JSON.
    length = int.from_bytes(content[:8], "little")
    return json_form(parse_json(content[8 : 8 + length], JsonObject)["__metadata__"], JsonObject, "__metadata__")
