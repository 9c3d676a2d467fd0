"""What every data set looks like, and the checks that all of them pass."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from noprop_dist.data.inputs import Inputs, Keep, chunks, in_memory
from noprop_dist.errors import UserError
from noprop_dist.models.shapes import Shapes
from noprop_dist.random_streams import Purpose, stream

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Samples and their labels.

    Attributes:
        inputs: (N, C, H, W) uint8 images or (N, …) float32.
        labels: (N,) int64 in 0..m−1.
    """

    inputs: Inputs
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: NDArray[np.int64]) -> "Split":
        """The samples of these indices."""
        return Split(self.inputs[indices], self.labels[indices])


@dataclass(frozen=True)
class DataFacts:
    """What a trained network has to know of its data set, without the data.

    Attributes:
        name: of the data set.
        input_shape: of one sample.
        class_names: m names.
        mean: per channel or feature, after uint8 is divided by 255.
        std: likewise.
        samples: number of samples in train, validation and test.
        sha256: fingerprint of the training split.
        test_sha256: fingerprint of the test split; empty in older files.
    """

    name: str
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    samples: dict[str, int]
    sha256: str
    test_sha256: str = ""

    @property
    def classes(self) -> int:
        """m."""
        return len(self.class_names)

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, object]) -> "DataFacts":
        """Read back what `to_json` gave."""
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return DataFacts(**lists)  # type: ignore[arg-type]


@dataclass(frozen=True)
class HeldOut:
    """What is never trained on. The test split takes no part in any choice either."""

    validation: Split
    test: Split


@dataclass(frozen=True)
class DataSet:
    """Three disjoint splits: one to learn from, two held out."""

    facts: DataFacts
    train: Split
    held_out: HeldOut

    def shapes(self, embedding_dim: int) -> Shapes:
        """The sizes that a block's network has to fit."""
        return Shapes(self.facts.input_shape, self.facts.classes, embedding_dim)


def split_off(split: Split, fraction: float) -> tuple[Split, Split]:
    """Take `fraction` of every class out of a split, the same samples in every run.

    Returns:
        (what is left, what was taken), each in the original order.
    """
    order = stream(0, Purpose.SPLIT).permutation(len(split))
    taken = np.zeros(len(split), dtype=bool)
    for label in np.unique(split.labels):
        members = order[split.labels[order] == label]
        taken[members[: round(len(members) * fraction)]] = True
    return split.subset(np.flatnonzero(~taken)), split.subset(np.flatnonzero(taken))


def assemble(
    name: str,
    training: Split,
    test: Split,
    class_names: tuple[str, ...],
    validation_fraction: float,
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    keep: Keep = in_memory,
) -> DataSet:
    """Check labels and shapes, hold out the validation split, and find mean and standard deviation.

    Args:
        name: of the data set.
        training: all samples that may be learned from, validation included.
        test: the test split.
        class_names: m names.
        validation_fraction: of `training`.
        moments: mean and standard deviation of each channel; measured on the training split where None.
        keep: where the samples of each split are to be.

    Raises:
        UserError: a label is outside 0..m−1, a split is empty, or the splits' samples differ in shape.
    """
    for part, split in (("training", training), ("test", test)):
        check_labels(split, len(class_names), f"data {name}: {part} set")
    if training.inputs.shape[1:] != test.inputs.shape[1:]:
        raise UserError(
            f"data {name}: training samples have shape {training.inputs.shape[1:]}, "
            f"test samples {test.inputs.shape[1:]}; they must be alike"
        )
    parts = dict(zip(("train", "validation"), split_off(training, validation_fraction), strict=True)) | {"test": test}
    train, validation, test = (Split(keep(part, split.inputs), split.labels) for part, split in parts.items())
    mean, std = moments or _moments(train.inputs)
    facts = DataFacts(
        name=name,
        input_shape=tuple(train.inputs.shape[1:]),
        class_names=class_names,
        mean=mean,
        std=std,
        samples={"train": len(train), "validation": len(validation), "test": len(test)},
        sha256=_sha256(train),
        test_sha256=_sha256(test),
    )
    return DataSet(facts, train, HeldOut(validation, test))


def check_labels(split: Split, classes: int, where: str) -> None:
    """Refuse an empty split, and labels that do not fit.

    Raises:
        UserError: as described, naming the first offending sample.
    """
    if len(split.labels) == 0:
        raise UserError(f"{where}: has no samples")
    if len(split.inputs) != len(split.labels):
        raise UserError(f"{where}: {len(split.inputs)} samples but {len(split.labels)} labels")
    outside = np.flatnonzero((split.labels < 0) | (split.labels >= classes))
    if outside.size:
        sample = int(outside[0])
        raise UserError(f"{where}: label {split.labels[sample]} of sample {sample} is outside 0..{classes - 1}")


def _sha256(split: Split) -> str:
    digest = hashlib.sha256()
    for chunk in chunks(split.inputs):
        digest.update(chunk.tobytes())
    digest.update(split.labels.tobytes())
    return digest.hexdigest()


def _moments(inputs: Inputs) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel (images) or feature (vectors); a constant one gets 1."""
    scale = 255.0 if inputs.dtype == np.uint8 else 1.0
    axes = tuple(axis for axis in range(len(inputs.shape)) if axis != 1)
    count = prod(inputs.shape) / inputs.shape[1]

    def mean(of: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.float64]:
        sums = [of(chunk.astype(np.float64)).sum(axis=axes, keepdims=True) for chunk in chunks(inputs)]
        return np.asarray(np.sum(sums, axis=0) / count)

    center = mean(lambda x: x)
    std = np.sqrt(mean(lambda x: (x - center) ** 2)).ravel() / scale
    return tuple((center.ravel() / scale).tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
