"""What every data set looks like, and the checks that all of them pass."""

import hashlib
import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from noprop_dist.config.schema import DataSettings
from noprop_dist.data.inputs import Inputs, Keep, check_memory, chunks, in_memory
from noprop_dist.errors import UserError
from noprop_dist.files import from_json
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
    """What a trained network needs to know of its data set, without the data.

    Attributes:
        name: of the data set.
        input_shape: of one sample.
        class_names: m names.
        mean: per channel or feature, after uint8 is divided by 255.
        std: likewise.
        samples: number of samples in train, validation and test.
        sha256: fingerprint of the training split.
        dtype: of its values; of runs before this was kept, uint8 is taken for granted.
        test_sha256: fingerprint of the test split; empty in older files.
        validation_sha256: likewise.
    """

    name: str
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    samples: dict[str, int]
    sha256: str
    dtype: str = "uint8"
    test_sha256: str = ""
    validation_sha256: str = ""

    @property
    def classes(self) -> int:
        """m, the number of classes."""
        return len(self.class_names)

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, object]) -> "DataFacts":
        """Read back what `to_json` gave.

        Raises:
            ValueError: these are no facts of a data set.
        """
        facts = from_json(DataFacts, values)
        facts._check_sizes()
        return facts

    def _check_sizes(self) -> None:
        """Refuse facts that no data set can have.

        Raises:
            ValueError: as described.
        """
        if not self.input_shape or not self.class_names or min(self.input_shape) < 1:
            raise ValueError(f"{self.classes} classes, with samples of shape {self.input_shape}, are no data set")
        if self.samples.keys() != {"train", "validation", "test"} or min(self.samples.values()) < 1:
            raise ValueError(f"samples: {self.samples} are no numbers of samples of train, validation and test")
        if not len(self.mean) == len(self.std) == self.input_shape[0]:
            raise ValueError(
                f"mean and std: have {len(self.mean)} and {len(self.std)} values, not {self.input_shape[0]}"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError("mean and std: are not finite, or a deviation is not above 0")


@dataclass(frozen=True)
class HeldOut:
    """Splits that are never trained on. The test split takes no part in any choice, either."""

    validation: Split
    test: Split


@dataclass(frozen=True)
class DataSet:
    """Three disjoint splits: one to learn from, two held out.

    Attributes:
        facts: of the whole.
        train: to learn from.
        held_out: the others.
        notes: what its user should know of how it was read: what was left out, which class has no samples.
    """

    facts: DataFacts
    train: Split
    held_out: HeldOut
    notes: tuple[str, ...] = ()

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


def shares_without_effect(settings: DataSettings, given: Collection[str]) -> list[str]:
    """A line for each share that is set, of a split that the data set has itself.

    Args:
        settings: of the data.
        given: the splits that the data set has.
    """
    defaults = DataSettings()
    shares = {part: f"{part}_fraction" for part in ("validation", "test") if part in given}
    return [
        f"data.{name}: no effect, for this data has a {part} set"
        for part, name in shares.items()
        if getattr(settings, name) != getattr(defaults, name)
    ]


def assemble(
    name: str,
    training: Split,
    test: Split,
    class_names: tuple[str, ...],
    validation_fraction: float,
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    keep: Keep = in_memory,
    *,
    validation: Split | None = None,
    notes: tuple[str, ...] = (),
) -> DataSet:
    """Make a data set: check labels and shapes, hold out the validation split, find mean and standard deviation.

    Args:
        name: of the data set.
        training: all samples that may be learned from, validation included.
        test: the test split.
        class_names: m names.
        validation_fraction: of `training`, where there is no `validation`.
        moments: mean and standard deviation of each channel; measured on the training split where None.
        keep: where the samples of each split are to be.
        validation: the validation split, where the data set has one of its own.
        notes: of how the data set was read.

    Raises:
        UserError: a label is outside 0..m−1, a split is empty, or the splits' samples differ in shape or in kind.
    """
    if len(class_names) < 2:
        raise UserError(f"data {name}: has {len(class_names)} class(es), at least 2 are needed")
    check_labels(training, len(class_names), f"data {name}: training set")
    if validation is None:
        training, validation = split_off(training, validation_fraction)
    parts = {"train": training, "validation": validation, "test": test}
    for part, split in parts.items():
        if len(split) == 0:
            raise UserError(
                f"data {name}: the {part} set has no samples, for its share of each class rounds to none; give more "
                "samples, or set data.validation_fraction and data.test_fraction"
            )
        check_labels(split, len(class_names), f"data {name}: {part} set")
        if split.inputs.shape[1:] != training.inputs.shape[1:] or split.inputs.dtype != training.inputs.dtype:
            raise UserError(
                f"data {name}: training samples are {training.inputs.dtype} of shape {training.inputs.shape[1:]}, "
                f"{part} samples {split.inputs.dtype} of shape {split.inputs.shape[1:]}; they must be alike"
            )
    if keep is in_memory:
        check_memory(sum(split.inputs.nbytes for split in parts.values()), f"data {name}")
    train, validation, test = (Split(keep(part, split.inputs), split.labels) for part, split in parts.items())
    mean, std = moments or _moments(train.inputs)
    facts = DataFacts(
        name=name,
        input_shape=tuple(train.inputs.shape[1:]),
        class_names=class_names,
        mean=mean,
        std=std,
        samples={"train": len(train), "validation": len(validation), "test": len(test)},
        sha256=fingerprint(train),
        dtype=str(train.inputs.dtype),
        test_sha256=fingerprint(test),
        validation_sha256=fingerprint(validation),
    )
    lacking = [_classes_without_samples(part, split.labels, class_names) for part, split in parts.items()]
    return DataSet(facts, train, HeldOut(validation, test), (*notes, *filter(None, lacking)))


def _classes_without_samples(part: str, labels: Labels, class_names: tuple[str, ...]) -> str:
    """A line on classes that a split lacks; empty if it has all."""
    lacking = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
    if not lacking.size:
        return ""
    names = ", ".join([class_names[label] for label in lacking[:3]] + ["…"] * (lacking.size > 3))
    return f"the {part} set has no sample of {lacking.size:,} of {len(class_names):,} classes ({names})"


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


def fingerprint(split: Split) -> str:
    """SHA-256 of samples and labels."""
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
    return tuple((center.ravel() / scale).tolist()), tuple(np.where(std.astype(np.float32) > 0, std, 1.0).tolist())
