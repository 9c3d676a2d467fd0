"""Data sets that do not fit into memory: packed once into a folder of .npy files, which workers map.

    FOLDER/packed.json             DataFacts, and the version of this layout
    FOLDER/{train,validation,test}.npy           (N, …) uint8 or float32
    FOLDER/{train,validation,test}-labels.npy    (N,) int64

Training reads a random permutation of all samples, a new one every epoch. That takes reads at random places, which a
mapped file allows and a stream of shards does not. All processes of a node share the pages of a mapped file, so images
are in its memory once, however many blocks it trains.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from noprop_dist.data.dataset import DataFacts, DataSet, HeldOut, Split, check_labels, fingerprint
from noprop_dist.data.inputs import Inputs, Keep, MappedInputs, chunks
from noprop_dist.errors import UserError
from noprop_dist.files import JsonObject, local_path, open_file, parse_json

FACTS, LAYOUT = "packed.json", 1
READ_WHOLE_BYTES = 2**30
"""Of a larger split, only `ROWS_CHECKED` samples are compared with what was packed: to read all takes minutes."""
ROWS_CHECKED = 1024
SPLITS = ("train", "validation", "test")


def pack(load: Callable[[Keep], DataSet], folder: Path, on_progress: Callable[[str, int, int], None]) -> DataFacts:
    """Write a data set into a new folder, which appears once all of it is written.

    Args:
        load: loads the data set, and stores the samples of each split with the function that it is given.
        folder: must not exist yet.
        on_progress: told (split, samples written, samples in all).

    Raises:
        UserError: the folder exists, or cannot be written, or `load` raises it.
    """
    if os.path.lexists(folder):
        raise UserError(f"{folder}: is there already; pack into a folder that is not")

    def keep(split: str, inputs: Inputs) -> MappedInputs:
        try:
            return _write(staging / f"{split}.npy", split, inputs, on_progress)
        except OSError as error:  # here, for `load` takes it for an error of reading
            raise UserError(f"{folder}: cannot be written: {error.strerror}") from error

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as scratch:
            staging = Path(scratch) / "packed"
            staging.mkdir()
            data = load(keep)
            splits = dict(zip(SPLITS, (data.train, data.held_out.validation, data.held_out.test), strict=True))
            for name, split in splits.items():
                np.save(staging / f"{name}-labels.npy", split.labels)
            rows = {name: _some_rows(split) for name, split in splits.items()}
            described = {"layout": LAYOUT, "facts": data.facts.to_json(), "rows": rows}
            (staging / FACTS).write_text(json.dumps(described, indent=1))
            staging.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return data.facts


def _write(file: Path, split: str, inputs: Inputs, on_progress: Callable[[str, int, int], None]) -> MappedInputs:
    done = 0
    with file.open("xb") as opened:  # not mapped: a full disk would end the process without a word
        layout = {"descr": np.lib.format.dtype_to_descr(np.dtype(inputs.dtype)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(opened, {**layout, "shape": tuple(inputs.shape)})
        for chunk in chunks(inputs):
            opened.write(np.ascontiguousarray(chunk).data)
            done += len(chunk)
            on_progress(split, done, len(inputs))
    return MappedInputs(str(file))


def load_packed(root: str) -> DataSet:
    """Map a packed data set.

    Raises:
        UserError: there is none, or a file of it is missing or truncated.
    """
    folder = local_path(root).absolute()
    try:
        with open_file(folder / FACTS) as opened:
            described = parse_json(opened.read(), JsonObject)
    except OSError as error:
        raise UserError(f"data.root={folder}: has no {FACTS}; `noprop-dist pack` makes a packed data set") from error
    except ValueError as error:
        raise UserError(f"data.root={folder}: {FACTS} is damaged: {error}") from error
    if (layout := described.get("layout", LAYOUT)) != LAYOUT:
        raise UserError(f"data.root={folder}: is packed in layout {layout!r}, this release reads {LAYOUT}")
    try:
        facts = DataFacts.from_json(described["facts"])
    except ValueError as error:
        raise UserError(f"data.root={folder}: {FACTS} is damaged: {error}") from error
    splits = {name: _split(folder, name, facts) for name in SPLITS}
    for name, split in splits.items():
        _check_as_packed(folder, name, split, facts, described.get("rows"))
    return DataSet(facts, splits["train"], HeldOut(splits["validation"], splits["test"]))


def _check_as_packed(folder: Path, name: str, split: Split, facts: DataFacts, rows: object) -> None:
    """Check that a split is the one that was packed.

    Raises:
        UserError: it is not.
    """
    whole = {"train": facts.sha256, "validation": facts.validation_sha256, "test": facts.test_sha256}[name]
    if whole and split.inputs.nbytes <= READ_WHOLE_BYTES:
        holds = fingerprint(split) == whole
    else:  # data that was packed earlier has no `rows`
        holds = not isinstance(rows, dict) or rows.get(name) in (None, _some_rows(split))
    if not holds:
        raise UserError(
            f"data.root={folder}: {name}.npy or its labels are not what was packed: their fingerprint in {FACTS} is "
            "another; pack the data again"
        )


def _some_rows(split: Split) -> str:
    """The fingerprint of evenly spaced samples, and of all labels."""
    chosen = np.unique(np.linspace(0, len(split) - 1, ROWS_CHECKED).astype(np.int64))
    return hashlib.sha256(np.ascontiguousarray(split.inputs[chosen]).tobytes() + split.labels.tobytes()).hexdigest()


def _split(folder: Path, name: str, facts: DataFacts) -> Split:
    inputs = MappedInputs(str(folder / f"{name}.npy"))
    mapped = MappedInputs(str(folder / f"{name}-labels.npy"))
    expected = (facts.samples.get(name), *facts.input_shape)
    if inputs.shape != expected or mapped.shape != expected[:1]:
        raise UserError(f"data.root={folder}: {name}.npy has shape {inputs.shape}, {FACTS} says {expected}")
    if inputs.dtype not in (np.uint8, np.float32) or mapped.dtype != np.int64:
        raise UserError(
            f"data.root={folder}: {name}.npy or its labels are damaged: they hold {inputs.dtype}, {mapped.dtype}"
        )
    split = Split(inputs, np.array(mapped[:]))
    check_labels(split, facts.classes, f"data.root={folder}: {name}-labels.npy")
    return split
