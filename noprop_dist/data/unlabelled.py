"""Samples without labels, to be classified: image files, folders of them, a .npz file, a packed data set."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from noprop_dist.data.dataset import DataFacts
from noprop_dist.data.image_file import image_kind, lost_of, read_image
from noprop_dist.data.image_folder import FolderEntries, images_below
from noprop_dist.data.inputs import Inputs
from noprop_dist.data.npz import npz_samples
from noprop_dist.data.packed import FACTS, load_packed
from noprop_dist.errors import UserError
from noprop_dist.files import local_path

Say = Callable[[str], None]
LINES = 5
"""Images that are named for one reason; the others are counted."""


class FewLines:
    """Says what goes for many images of the first few of them alone, and at the end how many more there are.

    Args:
        say: told each line.
    """

    def __init__(self, say: Say) -> None:
        self.say = say
        self._counts: Counter[str] = Counter()

    def of_image(self, line: str, reason: str) -> None:
        """Say a line of an image, unless enough were said for the same reason."""
        self._counts[reason] += 1
        if self._counts[reason] <= LINES:
            self.say(line)

    def end(self) -> None:
        """Say how many images were counted and not named."""
        for reason, count in self._counts.items():
            if count > LINES:
                self.say(f"{count - LINES:,} images more: {reason}")
        self._counts.clear()


class Unlabelled(Protocol):
    """Samples that fit a network, in an order that is the same at every call."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """What a sample is called: the path of an image, the number of a row."""

    def identity(self) -> str:
        """A fingerprint of names, sizes and times: of what would be read, without reading it."""

    def read(self, rows: range) -> tuple[NDArray[Any], Mapping[int, UserError]]:
        """Some of the samples as they are stored, (n, …), and why some rows of them cannot be read (zeros)."""


def find_samples(places: Sequence[str | Path], facts: DataFacts, run: str, told: FewLines) -> Unlabelled:
    """Find what is to be classified, and check that a network takes it.

    Args:
        places: image files and folders of them; or one .npz file; or the folder of one packed data set, whose test
            split is taken. Folders are searched at any depth, hidden files are left out.
        facts: of the data that the network was trained on.
        run: that trained it, for people.
        told: what is left out, or read otherwise than it is stored.

    Raises:
        UserError: there is no such file or folder, it holds nothing, or the network takes other samples.
    """
    paths = [local_path(place) for place in places]
    arrays = [path for path in paths if path.suffix.lower() == ".npz" or (path / FACTS).is_file()]
    if not arrays:
        _check_takes_images(facts, run)
        return ImageFiles(_image_files(paths, told.say), facts.input_shape, told)
    if len(paths) > 1:
        raise UserError(f"{arrays[0]}: holds arrays, which are classified by themselves; give nothing beside it")
    return _stored_samples(arrays[0], facts, run)


@dataclass(frozen=True)
class StoredSamples:
    """Samples of an array.

    Attributes:
        inputs: (N, …).
        file: that they are in.
    """

    inputs: Inputs
    file: Path

    def __len__(self) -> int:
        return len(self.inputs)

    def name(self, row: int) -> str:
        return str(row)

    def identity(self) -> str:
        return _identity([str(self.inputs.shape)], [self.file])

    def read(self, rows: range) -> tuple[NDArray[Any], Mapping[int, UserError]]:
        return np.asarray(self.inputs[rows.start : rows.stop]), {}


@dataclass(frozen=True)
class ImageFiles:
    """Images in files; read in as many threads as there are cores, and resized to what the network takes.

    Attributes:
        files: of the images.
        shape: (C, H, W) that the network takes.
        told: what of an image is not looked at.
    """

    files: Sequence[str]
    shape: tuple[int, ...]
    told: FewLines

    def __len__(self) -> int:
        return len(self.files)

    def name(self, row: int) -> str:
        return self.files[row]

    def identity(self) -> str:
        return _identity(self.files, map(Path, self.files))

    def read(self, rows: range) -> tuple[NDArray[Any], Mapping[int, UserError]]:
        images, unreadable = np.zeros((len(rows), *self.shape), np.uint8), dict[int, UserError]()
        with ThreadPoolExecutor(min(len(rows), os.cpu_count() or 1)) as threads:
            for row, image in enumerate(threads.map(self._read, (self.files[row] for row in rows))):
                if isinstance(image, UserError):
                    unreadable[row] = image
                    continue
                images[row], losses = image
                for loss in losses:
                    self.told.of_image(f"{self.files[rows[row]]}: {loss}", loss)
        return images, unreadable

    def _read(self, file: str) -> tuple[NDArray[np.uint8], list[str]] | UserError:
        channels, height, width = self.shape
        try:
            image = read_image(Path(file), channels=channels, size=(height, width))
            return image, lost_of(image_kind(Path(file)), channels=channels)
        except UserError as error:
            return error


def _check_takes_images(facts: DataFacts, run: str) -> None:
    shape, dtype = facts.input_shape, facts.dtype
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(f"{run}: was trained on samples of shape {shape}, not on images (grey or RGB)")
    if dtype != "uint8":
        raise UserError(
            f"{run}: was trained on {dtype} pixels, and nothing tells which of their values is a picture "
            "file's white; of files, predict takes .npz for networks that were not trained on uint8 images"
        )


def _image_files(paths: Sequence[Path], say: Say) -> tuple[str, ...]:
    files: list[str] = []
    for path in paths:
        if not path.is_dir():
            if not os.path.lexists(path):
                raise UserError(f"{path}: there is no such file")
            files.append(str(path))
            continue
        entries = FolderEntries()
        found = sorted(map(str, images_below(path, entries)))
        for note in entries.notes(path, str(path), "that are no images"):
            say(note)
        if not found:
            raise UserError(f"{path}: holds no images")
        files += found
    return tuple(files)


def _stored_samples(path: Path, facts: DataFacts, run: str) -> StoredSamples:
    inputs: Inputs
    if path.is_dir():
        inputs, file = load_packed(str(path)).held_out.test.inputs, path / "test.npy"
        stored = inputs.dtype
    else:
        (inputs, stored), file = npz_samples(path, facts.input_shape), path
    if (str(inputs.dtype), inputs.shape[1:]) != (facts.dtype, facts.input_shape):
        raise UserError(
            f"{path}: holds {stored} samples of shape {inputs.shape[1:]}, and {run} was trained on {facts.dtype} "
            f"samples of shape {facts.input_shape}; arrays are neither resized nor scaled"
        )
    return StoredSamples(inputs, file)


def _identity(names: Iterable[str], files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    for file in files:
        try:
            status = file.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(b"unreadable\n")
    return digest.hexdigest()
