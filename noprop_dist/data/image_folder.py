"""A folder of images with one subfolder per class."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noprop_dist.config.schema import DataSettings
from noprop_dist.data.dataset import DataSet, Split, assemble, split_off
from noprop_dist.data.image_file import read_image
from noprop_dist.data.inputs import Keep, in_memory
from noprop_dist.errors import UserError


@dataclass(frozen=True)
class ImageFiles:
    """Images that are not read yet. Indexing chooses files; `np.asarray` reads them, in as many threads as cores.

    Attributes:
        files: of the images.
        image_shape: (C, H, W) of all of them.
        resize: whether to resize images of another size.
    """

    files: tuple[Path, ...]
    image_shape: tuple[int, int, int]
    resize: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return (len(self.files), *self.image_shape)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of all images, once they are read."""
        return prod(self.shape)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> "ImageFiles":
        """Some of the images, not read yet."""
        chosen = self.files[rows] if isinstance(rows, slice) else tuple(self.files[row] for row in rows.tolist())
        return replace(self, files=chosen)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.uint8]:
        """Read them.

        Raises:
            UserError: one is no image, or of another size.
        """
        images = np.empty(self.shape, np.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for row, image in enumerate(threads.map(self._read, self.files)):
                images[row] = image
        return images

    def _read(self, file: Path) -> NDArray[np.uint8]:
        channels, height, width = self.image_shape
        image = read_image(file, channels, (height, width) if self.resize else None)
        if image.shape != self.image_shape:
            raise UserError(
                f"{file}: is {image.shape[1]}×{image.shape[2]} pixels, the first image is {height}×{width}; "
                "set data.image_size to resize all"
            )
        return image


def load_image_folder(settings: DataSettings, keep: Keep = in_memory) -> DataSet:
    """Read ROOT/train/CLASS/* and ROOT/test/CLASS/*, or ROOT/CLASS/* with a test set held out.

    Class numbers follow the sorted names of the class folders; the first image tells grey from colour and, without
    `data.image_size`, the size of all.

    Raises:
        UserError: the folder is not laid out like that, or an image is unreadable or of another size.
    """
    root = Path(settings.root or "").expanduser()
    divided = (root / "train").is_dir() and (root / "test").is_dir()
    names = _class_names(root / "train" if divided else root)
    channels, height, width = read_image(_files(root / "train" if divided else root, names)[0][0]).shape
    side = settings.image_size
    shape = (channels, side or height, side or width)

    def found(folder: Path) -> Split:
        files, labels = zip(*_files(folder, names), strict=True)
        return Split(ImageFiles(files, shape, resize=side is not None), np.array(labels, dtype=np.int64))

    training, test = (
        (found(root / "train"), found(root / "test")) if divided else split_off(found(root), settings.test_fraction)
    )
    return assemble("image-folder", training, test, names, settings.validation_fraction, keep=keep)


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise UserError(f"data.root={folder}: there is no such folder")
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    if len(names) < 2:
        raise UserError(f"data.root={folder}: {len(names)} class subfolder(s), at least 2 are needed")
    return names


def _files(folder: Path, names: tuple[str, ...]) -> list[tuple[Path, int]]:
    """All image files with their class numbers, sorted by class and name."""
    found: list[tuple[Path, int]] = []
    for label, name in enumerate(names):
        files = sorted(file for file in (folder / name).glob("*") if file.is_file() and file.name[0] != ".")
        if not files:
            raise UserError(f"{folder / name}: holds no images")
        found += [(file, label) for file in files]
    return found
