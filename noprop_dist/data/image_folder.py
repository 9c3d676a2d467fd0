"""A folder of images with one subfolder per class."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from noprop_dist.config.schema import DataSettings
from noprop_dist.data.dataset import DataSet, Split, assemble, shares_without_effect, split_off
from noprop_dist.data.image_file import ImageKind, image_kind, read_image
from noprop_dist.data.inputs import Keep, in_memory
from noprop_dist.errors import UserError
from noprop_dist.files import local_path


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
    """Read a folder of images: ROOT/CLASS/**, or ROOT/train/CLASS/** with val/ or test/ beside it, or both.

    What the folder lacks is held out of its training images. Class numbers follow the sorted names of the class
    folders of the training images; a class has all images at any depth below its folder, as torchvision's ImageFolder
    has it. Images are RGB unless all are grey; without `data.image_size` the first one gives the size of all.

    Raises:
        UserError: the folder is not laid out like that, or an image is unreadable or of another size.
    """
    root = local_path(settings.root or "")
    if not root.is_dir():
        raise UserError(f"data.root={root}: there is no such folder")
    found = FolderEntries()
    folders = _split_folders(root, found)
    names = _class_names(folders["train"])
    listed = {part: _files(folder, names, found, part == "train") for part, folder in folders.items()}
    kinds = _kinds([file for files, _ in listed.values() for file in files])
    first, side = listed["train"][0][0], settings.image_size
    grey = all(kind.grey for kind in kinds)
    _, height, width = read_image(first).shape
    shape = (1 if grey else 3, side or height, side or width)
    splits = {
        part: Split(ImageFiles(files, shape, resize=side is not None), labels)
        for part, (files, labels) in listed.items()
    }
    training, test = splits["train"], splits.get("test")
    if test is None:
        training, test = split_off(training, settings.test_fraction)
    return assemble(
        "image-folder",
        training,
        test,
        names,
        settings.validation_fraction,
        validation=splits.get("validation"),
        keep=keep,
        notes=(
            *found.notes(root, f"data.root={root}", "that are no images or in no class folder"),
            *_held_out(root, folders, settings),
            *shares_without_effect(settings, splits),
            *_notes(kinds, grey),
        ),
    )


SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Names of split folders, as Hugging Face's imagefolder knows them."""
NEVER_READ = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Pillow knows these formats by name, and needs another program or system to read them."""
LEFT_BY_SYSTEMS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")


@dataclass
class FolderEntries:
    """Of a folder that is read: what is left out of a folder, or read in a way that one could miss."""

    hidden: list[Path] = field(default_factory=list)
    no_images: list[Path] = field(default_factory=list)
    nested: int = 0
    folders: dict[tuple[int, int], Path] = field(default_factory=dict)

    def enter(self, folder: Path) -> None:
        """Note a folder whose images are read.

        Raises:
            UserError: they are read already, under another name: a link leads to them.
        """
        status = folder.stat()
        known = self.folders.setdefault((status.st_dev, status.st_ino), folder)
        if known != folder:
            raise UserError(f"{folder}: is the same folder as {known}, by a link; its images would be there twice")

    def hide(self, entry: Path) -> None:
        """Leave out a hidden file, or all files of a hidden folder."""
        self.hidden += sorted(file for file in entry.rglob("*") if file.is_file()) if entry.is_dir() else [entry]

    def notes(self, root: Path, where: str, others: str) -> Iterator[str]:
        """A line on what is left out, and one on images in nested folders.

        Args:
            root: of the folder.
            where: it is given.
            others: what files are that are neither hidden nor read.
        """
        groups = {"hidden": self.hidden, others: self.no_images}
        parts = [
            f"{len(files):,} {kind} ({files[0].relative_to(root)}{', …' if len(files) > 1 else ''})"
            for kind, files in groups.items()
            if files
        ]
        if parts:
            yield f"{where}: left out are files, {' and '.join(parts)}"
        if self.nested:
            yield f"{where}: {self.nested:,} images in folders below class folders are of that class"


def _split_folders(root: Path, found: FolderEntries) -> dict[str, Path]:
    """The folder of each split that is there; the root alone where it is not divided.

    Raises:
        UserError: it cannot be told whether a folder is a split or a class.
    """
    folders = [entry for entry in root.iterdir() if entry.is_dir() and not _is_hidden(entry.name)]
    named = {
        part: [each for each in folders if each.name.lower() in names and any(map(Path.is_dir, each.iterdir()))]
        for part, names in SPLITS.items()
    }
    splits = [each for part in named.values() for each in part]
    if not named["train"]:
        if splits and len(splits) == len(folders):
            raise UserError(f"data.root={root}: has {_names(splits)} but no train folder beside it")
        return {"train": root}
    others = [each for each in folders if each not in splits and any(images_below(each, FolderEntries()))]
    others += [each for each in splits if any(map(_is_image, each.iterdir()))]
    if others:
        raise UserError(
            f"data.root={root}: has split folders ({_names(splits)}), and images in {_names(others)} that belong to "
            "no class of them; move these out, or all class folders into one"
        )
    doubled = next((part for part in named.values() if len(part) > 1), None)
    if doubled:
        raise UserError(f"data.root={root}: {_names(doubled)} are folders of the same split; keep one")
    for entry in sorted(each for each in root.iterdir() if each not in splits):
        if _is_hidden(entry.name):
            found.hide(entry)
        else:
            found.no_images.append(entry)
    return {part: of_part[0] for part, of_part in named.items() if of_part}


def _held_out(root: Path, folders: dict[str, Path], settings: DataSettings) -> Iterator[str]:
    """What is taken from the training images of a divided folder."""
    shares = {"validation": settings.validation_fraction, "test": settings.test_fraction}
    for part, share in shares.items() if folders["train"] != root else ():
        if part not in folders:
            yield f"data.root={root}: has no {part} folder, so the {part} set is {share:.0%} of the images in train"


def _names(folders: Sequence[Path]) -> str:
    names = sorted(f"{folder.name}/" for folder in folders)
    return ", ".join(names[:4] + ["…"] * (len(names) > 4))


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name)))
    if len(names) < 2:
        raise UserError(f"data.root={folder}: {len(names)} class subfolder(s), at least 2 are needed")
    return names


def _files(
    split: Path, names: tuple[str, ...], found: FolderEntries, every_class: bool
) -> tuple[tuple[Path, ...], NDArray[np.int64]]:
    """All image files of a split with their class numbers, sorted by class and path."""
    files: list[Path] = []
    labels: list[int] = []
    for entry in sorted(split.iterdir()):
        if _is_hidden(entry.name):
            found.hide(entry)
        elif not entry.is_dir():
            found.no_images.append(entry)
        elif entry.name not in names:
            raise UserError(f"{entry}: is a class that the training images lack; they have {len(names)} others")
        else:
            images = sorted(images_below(entry, found))
            files += images
            labels += [names.index(entry.name)] * len(images)
            found.nested += sum(image.parent != entry for image in images)
            if not images and every_class:
                raise UserError(f"{entry}: holds no images")
    if not files:
        raise UserError(f"{split}: holds no images")
    return tuple(files), np.array(labels, dtype=np.int64)


def images_below(folder: Path, found: FolderEntries) -> Iterator[Path]:
    """The image files at any depth below a folder, in no order; what is left out is noted.

    Raises:
        UserError: links lead to the same images twice.
    """
    found.enter(folder)
    for entry in folder.iterdir():
        if _is_hidden(entry.name):
            found.hide(entry)
        elif entry.is_dir():
            yield from images_below(entry, found)
        elif _is_image(entry):
            yield entry
        else:
            found.no_images.append(entry)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in LEFT_BY_SYSTEMS


def _is_image(file: Path) -> bool:
    """Return True if its name ends as that of a format whose pictures Pillow reads by itself."""
    format_ = Image.registered_extensions().get(file.suffix.lower())
    return format_ in Image.OPEN and format_ not in NEVER_READ and file.is_file()


def _kinds(files: Sequence[Path]) -> list[ImageKind]:
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(image_kind, files))


def _notes(kinds: Sequence[ImageKind], grey: bool) -> Iterator[str]:
    """What is read otherwise than it is stored."""
    count = f"of {len(kinds):,} images"
    greys, sixteen, transparent, animated = (sum(each) for each in zip(*map(astuple, kinds), strict=True))
    if greys and not grey:
        yield f"{greys:,} {count} are grey, and are read as RGB with the others"
    if sixteen:
        yield f"{sixteen:,} {count} have 16 bits, and are read with 8: 65535 becomes 255"
    if transparent:
        yield f"{transparent:,} {count} are transparent, which is left out"
    if animated:
        yield f"{animated:,} {count} hold several pictures, of which the first is read"
