"""Named arrays as a data set: those of a .npz file, or those that a caller holds (`data.given`)."""

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from noprop_dist.config.schema import DataSettings
from noprop_dist.data.dataset import DataSet, Split, assemble, shares_without_effect, split_off
from noprop_dist.data.inputs import Keep, check_memory, in_memory
from noprop_dist.data.samples import fitted
from noprop_dist.errors import UserError
from noprop_dist.files import local_path, open_file

CHANNELS = (1, 3)
OTHER_SCALE = 20
"""Splits whose largest values differ by more than this factor are hardly scaled alike: 0…1 and 0…255."""
MOST_DEFLATED = 1032
"""A byte of a .npz file stands for no more of an array: deflate cannot do better."""


def load_npz(settings: DataSettings, keep: Keep = in_memory) -> DataSet:
    """Read x_train, y_train and, where given, x_val, y_val and x_test, y_test (else they are held out).

    x is images (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3, uint8 or floating-point, or other floats
    (N, …); y is (N,) or (N, 1) integers. Without `data.classes` the classes are the labels
    that y_train has, and carry their names.

    Raises:
        UserError: the file is missing or truncated, or an array is missing or of another kind.
    """
    file = local_path(settings.root or "")
    with _archive(file, f"data.root={file}") as arrays:
        return load_arrays(arrays, settings, keep)


def npz_samples(file: Path, shape: tuple[int, ...]) -> tuple[NDArray[Any], np.dtype[Any]]:
    """Read samples without labels: array x, else x_test, else the only one.

    Args:
        file: that holds them.
        shape: of a sample, as which images are read; what cannot be read so is returned as it is.

    Returns:
        (the samples as uint8 or float32, the dtype that they are stored as).

    Raises:
        UserError: the file is missing or truncated, has no such array, or one of another kind.
    """
    with _archive(file, str(file)) as arrays:
        known = [name for name in ("x", "x_test", *arrays.names[:1]) if name in arrays.names]
        if not known or (known[0] not in ("x", "x_test") and len(arrays.names) > 1):
            held = ", ".join(arrays.names) or "nothing"
            raise UserError(f"{file}: has neither an array x nor x_test; it holds {held}")
        x, where = _read(arrays, known[0])
        return np.ascontiguousarray(_floats(fitted(x, shape), where)), x.dtype


@contextmanager
def _archive(file: Path, where: str) -> Iterator["_ArchivedArrays"]:
    """The arrays of a file.

    Raises:
        UserError: it is missing, or what is read of it within the `with` is damaged.
    """
    try:
        with open_file(file) as opened, zipfile.ZipFile(opened) as archive:
            yield _ArchivedArrays(archive, os.fstat(opened.fileno()).st_size, file)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{where}: there is no such file") from error
    except Exception as error:  # zipfile and numpy raise many kinds on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where}: is no complete .npz file of plain arrays: {reason}") from error


class Arrays(Protocol):
    """Arrays x_train, y_train and, where there are, x_val, y_val, x_test, y_test.

    Attributes:
        source: what names them in messages.
        class_names: of labels 0..m−1; None for the labels that y_train has.
    """

    @property
    def source(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...] | None: ...

    @property
    def names(self) -> Sequence[str]: ...

    def kind(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of an array that is there."""

    def read(self, name: str) -> NDArray[Any]:
        """An array.

        Raises:
            UserError: there is none of that name, or it cannot be read.
        """


def load_arrays(arrays: Arrays, settings: DataSettings, keep: Keep = in_memory) -> DataSet:
    """Make a data set of arrays; see `load_npz` for what they may be.

    Raises:
        UserError: an array is missing or of another kind.
    """
    notes, source = list[str](), arrays.source
    given = {name[2:] for name in arrays.names if name[:2] in ("x_", "y_")}
    wanted: list[str] = [part for part in ("train", "val", "test") if part == "train" or part in given]
    parts = {part: _split(arrays, part, notes) for part in wanted}
    for part in parts:
        _check_alike(arrays, parts, part)
    if unused := [name for name in arrays.names if name[:2] not in ("x_", "y_") or name[2:] not in parts]:
        notes.append(f"{source}: left out are the arrays {', '.join(unused[:4])}{', …' * (len(unused) > 4)}")
    notes += _other_scales(parts, source)
    notes += shares_without_effect(settings, ["validation" if part == "val" else part for part in parts])
    classes, names = _classes(parts["train"].labels, settings.classes, arrays, notes)
    numbered = {part: _numbered(split, classes, f"{source}: y_{part}") for part, split in parts.items()}
    training, test = numbered["train"], numbered.get("test")
    if test is None:
        training, test = split_off(training, settings.test_fraction)
    fraction, validation = settings.validation_fraction, numbered.get("val")
    return assemble(
        settings.name, training, test, names, fraction, keep=keep, validation=validation, notes=tuple(notes)
    )


@dataclass(frozen=True)
class _ArchivedArrays:
    """The arrays of an archive, whose sizes are checked before memory is taken for them."""

    archive: zipfile.ZipFile
    file_bytes: int
    file: Path
    class_names: None = None

    @property
    def source(self) -> str:
        return str(self.file)

    @property
    def names(self) -> list[str]:
        return [name.removesuffix(".npy") for name in self.archive.namelist()]

    def kind(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype of an array that is there."""
        with self.archive.open(f"{name}.npy") as opened:
            version = np.lib.format.read_magic(opened)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(opened)
        return shape, dtype

    def read(self, name: str) -> NDArray[Any]:
        """An array.

        Raises:
            UserError: there is none of that name, or its header tells of more than the file can hold.
        """
        if name not in self.names:
            raise UserError(f"{self.file}: has no array {name}; it holds {', '.join(self.names) or 'nothing'}")
        member, (shape, dtype) = self.archive.getinfo(f"{name}.npy"), self.kind(name)
        if dtype.hasobject:
            raise UserError(f"{self.file}: {name} holds Python objects, arrays of plain numbers are needed")
        nbytes = prod(shape) * dtype.itemsize
        if nbytes > min(member.file_size, MOST_DEFLATED * self.file_bytes):
            raise UserError(f"{self.file}: {name} is {dtype} of shape {shape} by its header, the file holds less")
        check_memory(nbytes, f"{self.file}: {name}")
        with self.archive.open(member) as opened:
            array: NDArray[Any] = np.lib.format.read_array(opened, allow_pickle=False)
        return array


def _check_alike(arrays: Arrays, parts: Mapping[str, Split], part: str) -> None:
    """Refuse samples of a split that are not of the kind of the training samples.

    Raises:
        UserError: names both arrays, what they are, and what to do.
    """
    train, other = parts["train"].inputs, parts[part].inputs
    if train.dtype == other.dtype and train.shape[1:] == other.shape[1:]:
        return
    kinds = {name: arrays.kind(name) for name in ("x_train", f"x_{part}")}
    found = ", ".join(f"{name} is {dtype} of shape {shape}" for name, (shape, dtype) in kinds.items())
    kind, shape = "as uint8 from 0 to 255, or both as floats of one scale", "with samples of one shape"
    raise UserError(f"{arrays.source}: {found}; save both {shape if train.dtype == other.dtype else kind}")


def _other_scales(parts: Mapping[str, Split], source: str) -> list[str]:
    """A line for each split whose values are hardly scaled as those of the training samples are."""
    values = {f"x_{part}": np.asarray(split.inputs) for part, split in parts.items()}
    ends = {name: (float(x.min()), float(x.max())) for name, x in values.items()}
    largest = {name: max(map(abs, each)) for name, each in ends.items()}
    low, high = ends["x_train"]
    return [
        f"{source}: {name} lies between {least:.4g} and {most:.4g}, x_train between {low:.4g} and {high:.4g}: are they "
        "scaled alike?"
        for name, (least, most) in ends.items()
        if not largest["x_train"] / OTHER_SCALE <= largest[name] <= largest["x_train"] * OTHER_SCALE
    ]


def _split(arrays: Arrays, part: str, notes: list[str]) -> Split:
    """One split, its labels as they are in the file."""
    file, x_name, y_name = arrays.source, f"x_{part}", f"y_{part}"
    x, y = _inputs(*_read(arrays, x_name), notes), arrays.read(y_name)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"{file}: {y_name} is {y.dtype} of shape {y.shape}, integers of shape (N,) are needed")
    if len(x) != len(y):
        raise UserError(f"{file}: {x_name} has {len(x):,} samples, {y_name} {len(y):,} labels")
    if y.dtype == np.uint64 and y.size and y.max() > np.iinfo(np.int64).max:
        raise UserError(f"{file}: {y_name} has label {y.max()}, labels must be below 2^63")
    return Split(x, y.astype(np.int64))


def _read(arrays: Arrays, name: str) -> tuple[NDArray[Any], str]:
    """Samples (N, …) as they are stored, and what names them in messages."""
    x, where = arrays.read(name), f"{arrays.source}: {name}"
    if x.ndim < 2 or not (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)):
        raise UserError(f"{where} is {x.dtype} of shape {x.shape}, uint8 images or floats (N, …) are needed")
    if not len(x):
        raise UserError(f"{where} has no samples")
    if 0 in x.shape[1:]:
        raise UserError(f"{where} has samples of shape {x.shape[1:]}, which hold no values")
    return x, where


def _inputs(x: NDArray[Any], where: str, notes: list[str]) -> NDArray[Any]:
    """Images as (N, C, H, W), and floats as float32."""
    if x.ndim == 3:
        if x.dtype != np.uint8:
            notes.append(f"{where}: shape {x.shape} is taken for images with one channel")
        x = x[:, None]
    elif x.ndim == 4:
        x = _channels_first(x, where, notes)
    return _floats(x, where)


def _floats(x: NDArray[Any], where: str) -> NDArray[Any]:
    """Floats as float32, and uint8 as it is."""
    if x.dtype == np.uint8:
        return x
    with np.errstate(over="ignore"):
        floats = x.astype(np.float32)
    if not np.isfinite(floats).all():
        value = x[~np.isfinite(floats)][0]
        raise UserError(f"{where} holds {value}; values must be finite as float32")
    return floats


def _channels_first(x: NDArray[Any], where: str, notes: list[str]) -> NDArray[Any]:
    """(N, H, W, C) as (N, C, H, W), where the shape tells one from the other.

    Raises:
        UserError: it does not, or the last axis looks like channels, and there are not 1 or 3 of them.
    """
    _, first, height, last = x.shape
    if first in CHANNELS and last in CHANNELS and (first, last) != (1, 1):
        raise UserError(
            f"{where}: shape {x.shape} can be read as images with {first} channels first or {last} last; cut or pad "
            "them so that one of the two axes is neither 1 nor 3, or flatten each sample to a vector"
        )
    if first in CHANNELS:
        return x
    if last in CHANNELS:
        if x.dtype != np.uint8:
            notes.append(f"{where}: shape {x.shape} is taken for images with {last} channel(s) last")
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if last < min(first, height):
        alpha = ", or x[..., :3] leaves out the alpha of RGBA" if last == 4 else ""
        raise UserError(
            f"{where}: shape {x.shape} looks like images with {last} channels last, 1 or 3 are allowed there; "
            f"x.transpose(0, 3, 1, 2) puts channels first{alpha}"
        )
    return x


def _classes(
    labels: NDArray[np.int64], given: int | None, arrays: Arrays, notes: list[str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The label of each class number, and its name.

    Raises:
        UserError: the labels are no classes.
    """
    if given is not None:
        return np.arange(given), tuple(map(str, range(given)))
    if arrays.class_names is not None:
        return np.arange(len(arrays.class_names)), arrays.class_names
    classes, source = np.unique(labels), arrays.source
    if len(labels) > 1 and len(classes) > len(labels) // 2:
        raise UserError(
            f"{source}: y_train has {len(classes):,} different labels in {len(labels):,} samples, which are ids and no "
            "classes; data.classes says how many classes there are"
        )
    if classes.size and classes[-1] != len(classes) - 1 and classes[0] >= 0:
        notes.append(
            f"{source}: y_train has {len(classes):,} different labels from {classes[0]} to {classes[-1]}, which become "
            f"classes 0 to {len(classes) - 1} and keep their names"
        )
    return classes, tuple(map(str, classes.tolist()))


def _shown(classes: NDArray[np.int64]) -> str:
    return ", ".join(
        [*map(str, classes[:3].tolist()), *(["…", str(classes[-1])] if len(classes) > 4 else map(str, classes[3:]))]
    )


def _numbered(split: Split, classes: NDArray[np.int64], where: str) -> Split:
    """The split with the numbers of its classes as labels.

    Raises:
        UserError: a label is negative, or of no class.
    """
    unknown = np.flatnonzero((split.labels < 0) | ~np.isin(split.labels, classes))
    if unknown.size:
        label = split.labels[unknown[0]]
        known = f"is outside of the {len(classes):,} classes {_shown(classes)}"
        wrong = "is negative; labels are 0 or more" if label < 0 else known
        raise UserError(f"{where}: label {label} of sample {unknown[0]} {wrong}")
    return Split(split.inputs, np.searchsorted(classes, split.labels).astype(np.int64))
