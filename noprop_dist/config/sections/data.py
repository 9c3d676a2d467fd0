"""Where the samples are from, and how they are changed."""

from typing import Literal

from pydantic import Field, model_validator

from noprop_dist.config.sections.base import ChangesBits, KeepsBits, Settings


class AugmentSettings(Settings):
    """Random changes to training images, keyed by (seed, epoch, sample)."""

    crop_padding: ChangesBits[int] = Field(
        0, ge=0, le=1024, description="pad by this many pixels, then crop at random to the old size; 0 is off"
    )
    flip: ChangesBits[bool] = Field(False, description="mirror left-right with probability 1/2")


class DataSettings(Settings):
    """The data set. Its samples have a fingerprint of their own, so the place they lie in changes no bits."""

    name: ChangesBits[
        Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "image-folder", "npz", "packed", "given"]
    ] = Field("digits", description="given: handed over in Python, `train(config, data=…)`")
    root: KeepsBits[str | None] = Field(
        None,
        description="torchvision's root folder (default: data), the image folder, the .npz file, or a packed folder",
    )
    download: KeepsBits[bool] = Field(True, description="let torchvision download what is missing under root")
    validation_fraction: ChangesBits[float] = Field(0.1, gt=0, lt=0.5, description="held out of the training set")
    test_fraction: ChangesBits[float] = Field(
        0.2, gt=0, lt=0.9, description="held out as test set if the data has none (image-folder, npz, given)"
    )
    image_size: ChangesBits[int | None] = Field(
        None, ge=1, le=8192, description="image-folder: resize to this many pixels a side"
    )
    classes: ChangesBits[int | None] = Field(
        None,
        ge=1,
        le=100_000,
        description="npz, given: number of classes, labels being 0..classes−1 (default: those of the training set)",
    )
    columns: KeepsBits[tuple[str, str] | None] = Field(
        None, description="given: columns of image and label of a Hugging Face Dataset (default: found by their types)"
    )
    augment: AugmentSettings = AugmentSettings()

    @model_validator(mode="after")
    def _root_is_given(self) -> "DataSettings":
        if self.name in ("image-folder", "npz", "packed") and self.root is None:
            raise ValueError(f"root must be given for data.name={self.name}")
        return self
