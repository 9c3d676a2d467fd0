"""A .npz file of arrays."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from noprop_dist.config.schema import DataSettings
from noprop_dist.data.dataset import DataSet, Split, assemble, split_off
from noprop_dist.data.inputs import Keep, in_memory
from noprop_dist.errors import UserError


def load_npz(settings: DataSettings, keep: Keep = in_memory) -> DataSet:
    """Read x_train, y_train and, where given, x_test, y_test (else a test set is held out).

    x is uint8 images (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3, or floating-point (N, …); y is (N,)
    integers from 0.

    Raises:
        UserError: the file is missing or truncated, or an array is missing or of another kind.
    """
    file = Path(settings.root or "").expanduser()
    arrays = _read(file)
    training = _split(arrays, "train", file)
    if "x_test" in arrays:
        test = _split(arrays, "test", file)
    else:
        training, test = split_off(training, settings.test_fraction)
    largest = int(max((split.labels.max(initial=0) for split in (training, test)), default=0))
    classes = settings.classes or largest + 1
    names = tuple(map(str, range(classes)))
    return assemble("npz", training, test, names, settings.validation_fraction, keep=keep)


def _read(file: Path) -> dict[str, Any]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise UserError(f"data.root={file}: there is no such file") from error
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"data.root={file}: is no complete .npz file of plain arrays: {error}") from error


def _split(arrays: dict[str, Any], part: str, file: Path) -> Split:
    missing = [name for name in (f"x_{part}", f"y_{part}") if name not in arrays]
    if missing:
        raise UserError(f"{file}: has no array {missing[0]}; it holds {', '.join(arrays) or 'nothing'}")
    x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"{file}: y_{part} is {y.dtype} of shape {y.shape}, integers of shape (N,) are needed")
    if x.ndim < 2 or not (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)):
        raise UserError(f"{file}: x_{part} is {x.dtype} of shape {x.shape}, uint8 images or floats (N, …) are needed")
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        raise UserError(f"{file}: x_{part} holds values that are not finite")
    return Split(_images_first(x) if x.dtype == np.uint8 else x.astype(np.float32), y.astype(np.int64))


def _images_first(x: Any) -> Any:
    """(N, H, W) and (N, H, W, C) as (N, C, H, W)."""
    if x.ndim == 3:
        return x[:, None]
    last_is_channels = x.ndim == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if last_is_channels else x
