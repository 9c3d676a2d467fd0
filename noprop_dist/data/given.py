"""Data that a caller holds: arrays, a torch Dataset, a Hugging Face Dataset. All of them become named arrays."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from noprop_dist.config.schema import DataSettings
from noprop_dist.data.dataset import DataSet
from noprop_dist.data.image_file import GREY, pixels_of
from noprop_dist.data.inputs import Keep, check_memory, in_memory
from noprop_dist.data.npz import load_arrays
from noprop_dist.errors import UserError, why

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img", "images", "pixel_values", "x"), ("label", "labels", "target", "y")
FORMS = (
    "a pair (x, y) of arrays, a mapping with x_train, y_train and perhaps x_val, y_val, x_test, y_test, a torch or "
    "Hugging Face Dataset, or a pair (train, test) or a mapping from train, val and test of these"
)
Columns = tuple[str, str]


@dataclass(frozen=True)
class GivenData:
    """Named arrays, as in a .npz file; see `data.npz.load_npz`.

    Attributes:
        arrays: x_train, y_train and, where given, x_val, y_val, x_test, y_test.
        class_names: of labels 0..m−1; None for the labels that y_train has.
    """

    arrays: Mapping[str, NDArray[Any]]
    class_names: tuple[str, ...] | None = None

    @property
    def source(self) -> str:
        return "data"

    @property
    def names(self) -> Sequence[str]:
        return list(self.arrays)

    def kind(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        return self.arrays[name].shape, self.arrays[name].dtype

    def read(self, name: str) -> NDArray[Any]:
        if name not in self.arrays:
            raise UserError(f"data: has no array {name}; it holds {', '.join(self.arrays) or 'nothing'}")
        return self.arrays[name]

    def load(self, settings: DataSettings, keep: Keep = in_memory) -> DataSet:
        """Check and split it.

        Raises:
            UserError: labels or shapes do not fit.
        """
        return load_arrays(self, settings, keep)


def given_data(data: Any, columns: Columns | None = None) -> GivenData:
    """Read what a caller holds into named arrays.

    Args:
        data: a pair (x, y) of arrays or tensors; a mapping with x_train, y_train and, where given, x_val, y_val,
            x_test, y_test; a torch or Hugging Face Dataset; or a pair (train, test) or a mapping from split of pairs
            or Datasets. A Dataset is read once, so random transforms are drawn once, too.
        columns: of image and label of a Hugging Face Dataset; found by their types where None.

    Raises:
        UserError: it is nothing of that kind, or the samples differ in shape.
    """
    if isinstance(data, GivenData):
        return data
    if isinstance(data, Mapping) and any(str(key)[:2] in ("x_", "y_") for key in data):
        return GivenData({str(name): plain_array(value, f"data: {name}") for name, value in data.items()})
    if isinstance(data, Mapping):
        return _of_splits(data, columns)
    if _is_train_and_test(data):
        return _of_splits({"train": data[0], "test": data[1]}, columns)
    return _of_splits({"train": data}, columns)


def _of_splits(splits: Mapping[Any, Any], columns: Columns | None) -> GivenData:
    arrays, names = dict[str, NDArray[Any]](), dict[str, tuple[str, ...] | None]()
    for key, split in splits.items():
        part = SPLITS.get(str(key))
        if part is None:
            raise UserError(f"data: has a split {key!r}, allowed are train, val and test; leave it out of the mapping")
        if part in names:
            raise UserError(f"data: has two splits that mean {part}; leave one out of the mapping")
        arrays[f"x_{part}"], arrays[f"y_{part}"], names[part] = _split(split, str(key), columns)
    class_names = names.get("train")
    for part, own in names.items():
        if class_names is not None and own is not None and own != class_names:
            arrays[f"y_{part}"] = _by_name(arrays[f"y_{part}"], own, class_names, part)
    return GivenData(arrays, class_names)


def _by_name(labels: NDArray[Any], own: tuple[str, ...], class_names: tuple[str, ...], part: str) -> NDArray[np.int64]:
    """Labels of a split as numbers of the training split's classes of the same names.

    Raises:
        UserError: a label stands for a class that the training split has not.
    """
    for label in np.unique(labels).tolist():
        if not 0 <= label < len(own) or own[label] not in class_names:
            what = f"class {own[label]!r}" if 0 <= label < len(own) else f"label {label} without a name"
            raise UserError(f"data: {part} has {what}, and train has the classes {', '.join(class_names[:9])}")
    numbers = [class_names.index(name) if name in class_names else -1 for name in own]
    renumbered: NDArray[np.int64] = np.array(numbers, dtype=np.int64)[labels]
    return renumbered


def _split(split: Any, name: str, columns: Columns | None) -> tuple[NDArray[Any], NDArray[Any], tuple[str, ...] | None]:
    """(x, y, names of the classes) of one split."""
    if isinstance(split, tuple | list) and len(split) == 2:
        return plain_array(split[0], f"data: x of {name}"), plain_array(split[1], f"data: y of {name}"), None
    if isinstance(split, torch.utils.data.DataLoader):
        raise UserError(f"data: {name} is a DataLoader; hand over its dataset: the run makes its own batches")
    if not hasattr(split, "__len__") and (_is_hugging_face(split) or isinstance(split, torch.utils.data.Dataset)):
        raise UserError(f"data: {name} is a stream, {type(split).__name__}; read it into a Dataset that has a length")
    if _is_hugging_face(split):
        image, label = columns or (_image_column(split), _label_column(split))
        missing = [each for each in (image, label) if each not in split.column_names]
        if missing:
            raise UserError(f"data.columns: {name} has no column {missing[0]!r}, but {', '.join(split.column_names)}")
        rows: Iterable[Any] = split.select_columns([image, label])
        pairs = ((row[image], row[label]) for row in rows)
        names: Any = getattr(split.features[label], "names", None)
        return *_stacked(pairs, len(split), name), tuple(names) if names else None
    if _is_dataset(split):
        samples = (split[index] for index in range(len(split)))
        x, y = _stacked(samples, len(split), name)
        names = getattr(split, "classes", None)
        fits = isinstance(names, list | tuple) and y.size and y.min() >= 0 and y.max() < len(names)
        return x, y, tuple(map(str, names)) if fits else None
    raise UserError(f"data: {name} is {type(split).__name__}; allowed are {FORMS}")


def _is_train_and_test(data: Any) -> bool:
    """Return True for two Datasets, two tuples (x, y) in a tuple, and two pairs of arrays: lists may be samples."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    tuples = all(isinstance(each, tuple) for each in (data, *data))
    return all(_is_dataset(each) or _is_pair(each, of_anything=tuples) for each in data)


def _is_pair(data: Any, *, of_anything: bool) -> bool:
    pair = isinstance(data, tuple | list) and len(data) == 2
    return pair and (of_anything or all(getattr(each, "ndim", 0) for each in data))


def _is_dataset(data: Any) -> bool:
    """Return True for what gives its samples by number and says how many there are."""
    sized = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    return sized and not (hasattr(data, "__array__") or isinstance(data, str | bytes | Mapping | tuple | list))


def _is_hugging_face(data: Any) -> bool:
    return hasattr(data, "column_names") and hasattr(data, "features") and hasattr(data, "select_columns")


def _image_column(data: Any) -> str:
    types = {name: type(feature).__name__ for name, feature in data.features.items()}
    found = [name for name, kind in types.items() if kind == "Image" or kind.startswith("Array")]
    return _only(found or [name for name in IMAGE_COLUMNS if name in types], data, "image")


def _label_column(data: Any) -> str:
    found = [name for name, feature in data.features.items() if type(feature).__name__ == "ClassLabel"]
    return _only(found or [name for name in LABEL_COLUMNS if name in data.features], data, "label")


def _only(found: Sequence[str], data: Any, what: str) -> str:
    if len(found) == 1:
        return found[0]
    several = f"{' and '.join(found)} may both be the {what}" if found else f"none is known as the {what}"
    raise UserError(
        f"data: of the columns {', '.join(data.column_names)} {several}; data.columns=[IMAGE, LABEL] names them"
    )


def _stacked(samples: Iterable[Any], number: int, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The samples of a Dataset as (x, y).

    Raises:
        UserError: one is no pair, or differs from the first.
    """
    x: NDArray[Any] | None = None
    labels = list[int]()
    to_pixels = _Pictures()
    for index, sample in enumerate(_told(samples, name)):
        where = f"data: sample {index} of {name}"
        if not isinstance(sample, tuple | list) or len(sample) < 2:
            raise UserError(f"{where} is {type(sample).__name__}, a pair (x, y) is needed")
        pixels = to_pixels(sample[0], where)
        labels.append(_label(sample[1], where))
        if x is None:
            check_memory(pixels.nbytes * number, f"data: {name}")
            x = np.empty((number, *pixels.shape), pixels.dtype)
        if pixels.shape != x.shape[1:] or pixels.dtype != x.dtype:
            raise UserError(
                f"{where} is {pixels.dtype} of shape {pixels.shape}, the first is {x.dtype} of shape {x.shape[1:]}; "
                "resize or convert them alike"
            )
        x[index] = pixels
    if x is None:
        raise UserError(f"data: {name} has no samples")
    if len(labels) != number:
        raise UserError(f"data: {name} has {len(labels)} samples, and says that it has {number}")
    return x, np.array(labels, dtype=np.int64)


def _told(samples: Iterable[Any], name: str) -> Iterator[Any]:
    """The samples; what a Dataset raises is told with the sample's number.

    Raises:
        UserError: as described.
    """
    found, index = iter(samples), 0
    while True:
        try:
            sample = next(found)
        except StopIteration:
            return
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"data: sample {index} of {name} cannot be read: {reason}") from error
        yield sample
        index += 1


class _Pictures:
    """Makes an array of a sample. Pictures of Pillow are grey or RGB as the first one is, unless a later one is RGB."""

    def __init__(self) -> None:
        self._channels: int | None = None

    def __call__(self, value: Any, where: str) -> NDArray[Any]:
        if not isinstance(value, Image.Image):
            return plain_array(value, where)
        grey = value.mode in GREY
        if self._channels is None:
            self._channels = 1 if grey else 3
        if self._channels == 1 and not grey:
            raise UserError(f"{where} is in colour, the ones before are grey; convert them alike")
        try:
            return pixels_of(value, self._channels)
        except (ValueError, OSError) as error:
            raise UserError(f"{where}: is no readable image: {why(error)}") from error


def plain_array(value: Any, where: str) -> NDArray[Any]:
    """The array that a caller's value is.

    Raises:
        UserError: it is none, or does not hold plain numbers.
    """
    parts = value if isinstance(value, list | tuple) else [value]
    if any(np.ma.is_masked(part) for part in parts):
        raise UserError(f"{where}: is a masked array, and what is masked has no value; hand over array.filled(…)")
    check_dense(value, where)
    convert: Callable[[Any], Any] = (
        (lambda tensor: tensor.detach().cpu().numpy()) if isinstance(value, torch.Tensor) else np.asarray
    )
    try:
        array: NDArray[Any] = convert(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: is no array: {error}") from error
    if array.dtype.hasobject or array.dtype.kind not in "biuf":
        raise UserError(f"{where}: holds {array.dtype}, arrays of plain numbers are needed")
    return array


def check_dense(value: Any, where: str) -> None:
    """Refuse a tensor whose values do not lie in memory one after another.

    Raises:
        UserError: as described.
    """
    if not isinstance(value, torch.Tensor):
        return
    if value.is_meta:
        raise UserError(f"{where}: is a tensor on the meta device, which holds no values")
    if value.layout != torch.strided:
        layout = str(value.layout).removeprefix("torch.")
        raise UserError(f"{where}: is a {layout} tensor; a dense one is needed")


def _label(value: Any, where: str) -> int:
    array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
    if np.ma.is_masked(value) or array.size != 1 or array.dtype.kind not in "iu":
        raise UserError(f"{where} has the label {value!r}, one integer is needed")
    return int(array.reshape(()))
