"""A folder of images with one subfolder per class."""

from pathlib import Path

import numpy as np

from noprop_dist.configuration.settings import DataSettings
from noprop_dist.data.dataset import DataSet, Split, assemble, split_off
from noprop_dist.data.image_file import read_image
from noprop_dist.errors import UserError


def load_image_folder(settings: DataSettings) -> DataSet:
    """Read ROOT/train/CLASS/* and ROOT/test/CLASS/*, or ROOT/CLASS/* with a test set held out.

    Class numbers follow the sorted names of the class folders; the first image tells grey from colour and, without
    `data.image_size`, the size of all.

    Raises:
        UserError: the folder is not laid out like that, or an image is unreadable or of another size.
    """
    root = Path(settings.root or "").expanduser()
    divided = (root / "train").is_dir() and (root / "test").is_dir()
    names = _class_names(root / "train" if divided else root)
    first = read_image(_files(root / "train" if divided else root, names)[0][0])
    size = (settings.image_size, settings.image_size) if settings.image_size else None

    def read(folder: Path) -> Split:
        files = _files(folder, names)
        images = [read_image(file, channels=first.shape[0], size=size) for file, _ in files]
        for (file, _), image in zip(files, images, strict=True):
            if image.shape != images[0].shape:
                raise UserError(
                    f"{file}: is {image.shape[1]}×{image.shape[2]} pixels, the first image is "
                    f"{images[0].shape[1]}×{images[0].shape[2]}; set data.image_size to resize all"
                )
        return Split(np.stack(images), np.array([label for _, label in files], dtype=np.int64))

    training, test = (
        (read(root / "train"), read(root / "test")) if divided else split_off(read(root), settings.test_fraction)
    )
    return assemble("image-folder", training, test, names, settings.validation_fraction)


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
