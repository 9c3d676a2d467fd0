"""Loads the data set that the `data` settings name."""

import hashlib

import numpy as np

from noprop_dist.config.schema import DataSettings
from noprop_dist.data.dataset import DataFacts, DataSet
from noprop_dist.data.digits import load_digits
from noprop_dist.data.image_folder import load_image_folder
from noprop_dist.data.inputs import Keep, in_memory
from noprop_dist.data.npz import load_npz
from noprop_dist.data.packed import load_packed
from noprop_dist.data.torchvision_sets import load_torchvision
from noprop_dist.errors import UserError, why


def load_data(settings: DataSettings, keep: Keep = in_memory) -> DataSet:
    """Load, check and split the data set that the settings name.

    Args:
        settings: of the data.
        keep: stores the samples of each split; a packed data set stays where it is.

    Raises:
        UserError: a file is missing, truncated or not what it should be; labels or shapes do not fit.
    """
    try:
        return _load(settings, keep)
    except OSError as error:
        raise UserError(f"data.root={settings.root}: cannot be read: {why(error, with_file=True)}") from error


def _load(settings: DataSettings, keep: Keep) -> DataSet:
    match settings.name:
        case "digits":
            return load_digits(settings.validation_fraction, keep)
        case "image-folder":
            return load_image_folder(settings, keep)
        case "npz":
            return load_npz(settings, keep)
        case "packed":
            return load_packed(settings.root or "")
        case "given":
            raise UserError(
                "data.name=given: the data was handed over in Python and lies in no file; hand it over again (data=…)"
            )
        case _:
            return load_torchvision(settings, keep)


def load_again(settings: DataSettings, trained_on: DataFacts, run: str, root: str | None = None) -> DataSet:
    """Load the data set that a run was trained on, which may have moved. Nothing is downloaded to where the run says.

    Args:
        settings: of the run's data.
        trained_on: the facts of it.
        run: whose it is, for people.
        root: where it lies now; None for where it lay.

    Raises:
        UserError: it cannot be read, or is another one.
    """
    if root is not None:
        settings = settings.model_copy(update={"root": root})
    elif settings.root is not None:
        settings = settings.model_copy(update={"download": False})
    try:
        data = load_data(settings)
    except UserError as error:
        if root is not None or settings.root is None:
            raise
        raise UserError(f"{error}; if the data of {run} has moved, --data-root (data_root=…) says where to") from error
    check_same_data(trained_on, data.facts, run, settings)
    return data


def check_same_data(before: DataFacts, now: DataFacts, run: str, settings: DataSettings) -> None:
    """Check that data is what a run was trained on: it may lie elsewhere.

    Args:
        before: of the run.
        now: as it is read.
        run: for people.
        settings: where it is read.

    Raises:
        UserError: shape, classes or samples are others; names both sides.
    """
    where = f"data.name={settings.name}" if settings.root is None else f"data.root={settings.root}"
    for what, then, found in (
        ("shape of a sample", before.input_shape, now.input_shape),
        ("classes", _listed(before.class_names), _listed(now.class_names)),
        ("numbers of samples", _counted(before), _counted(now)),
        ("fingerprint of the training samples", before.sha256[:16], now.sha256[:16]),
        ("fingerprint of the validation samples", before.validation_sha256[:16], now.validation_sha256[:16]),
        ("fingerprint of the test samples", before.test_sha256[:16], now.test_sha256[:16]),
    ):
        if then and found and then != found:  # "" was not written down
            raise UserError(
                f"{run}: was trained on other data than {where} holds: {what} {then} there and {found} here; "
                "only the same data will do; `noprop-dist predict` and load(run).predict(images) take any other"
            )
    for what, numbers, others in (("mean", before.mean, now.mean), ("deviation", before.std, now.std)):
        if not np.allclose(numbers, others, rtol=1e-5, atol=1e-7):  # the last digits may be another numpy's
            raise UserError(
                f"{run}: its data.json says that the {what} of the samples is {_numbers(numbers)}, and it is "
                f"{_numbers(others)}: that file was edited, or is of another run"
            )


def _counted(facts: DataFacts) -> str:
    return ", ".join(f"{facts.samples[part]} {part}" for part in ("train", "validation", "test"))


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join([f"{value:.6g}" for value in values[:3]] + ["…"] * (len(values) > 3))


def _listed(names: tuple[str, ...]) -> str:
    text = ", ".join(names)
    return (
        text
        if len(text) <= 200
        else f"{text[:200]}… ({len(names)} of them, fingerprint {hashlib.sha256(text.encode()).hexdigest()[:16]})"
    )
