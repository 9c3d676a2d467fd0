"""What training images go through, and that reading them ahead changes nothing."""

import numpy as np
import pytest
import torch

from noprop_dist.config.schema import AugmentSettings, DataSettings
from noprop_dist.data.augmentation import build_augmentation
from noprop_dist.data.load import load_data
from noprop_dist.data.samples import ReadAhead, Samples
from noprop_dist.errors import UserError

RANDOM = np.random.default_rng(0)


def test_augmentation_is_keyed_by_seed_epoch_and_sample_alone():
    images = torch.from_numpy(RANDOM.integers(0, 256, (6, 3, 12, 12), np.uint8))
    augment = build_augmentation(
        AugmentSettings(crop_padding=2, flip=True), seed=4, samples=20, input_shape=(3, 12, 12)
    )
    indices = np.arange(10, 16)
    together = augment(images, indices, epoch=3)
    assert together.shape == images.shape
    assert not torch.equal(together, images)
    alone = torch.cat([augment(images[k : k + 1], indices[k : k + 1], epoch=3) for k in reversed(range(6))])
    assert torch.equal(alone.flip(0), together)
    assert not torch.equal(augment(images, indices, epoch=4), together)


def test_only_training_batches_are_augmented():
    data = load_data(DataSettings())
    augment = build_augmentation(AugmentSettings(crop_padding=3), 0, len(data.train), (1, 8, 8))
    samples = Samples(data.train.inputs, data.facts, torch.device("cpu"), augment)
    plain = Samples(data.train.inputs, data.facts, torch.device("cpu"))
    assert torch.equal(samples.batch(np.arange(5)), plain.batch(np.arange(5)))
    augmented, plain_too = (next(each.read(np.arange(5)[None], np.zeros(1, np.int32))) for each in (samples, plain))
    assert not torch.equal(augmented, plain_too)
    assert torch.equal(plain.normalise(plain_too), plain.batch(np.arange(5)))


def test_augmentation_needs_images():
    assert build_augmentation(AugmentSettings(), 0, 9, (30,)) is None
    with pytest.raises(UserError, match="data.augment: needs images"):
        build_augmentation(AugmentSettings(flip=True), 0, 9, (30,))


def test_augmentation_crops_out_of_a_frame_of_zeros_and_mirrors():
    """Against plain slicing of the padded image, for every place and both directions."""
    images = torch.from_numpy(RANDOM.integers(1, 256, (300, 2, 4, 5), np.uint8))
    augmented = build_augmentation(AugmentSettings(crop_padding=1, flip=True), 0, 300, (2, 4, 5))(
        images, np.arange(300), epoch=0
    )
    found = set()
    for image, result in zip(images, augmented, strict=True):
        padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
        for down, right, mirror in np.ndindex(3, 3, 2):
            crop = padded[:, down : down + 4, right : right + 5]
            if np.array_equal(crop[:, :, ::-1] if mirror else crop, result):
                found.add((down, right, mirror))
                break
        else:
            pytest.fail("no crop of the image")
    assert len(found) == 18


def test_batches_read_ahead_are_the_same_batches():
    data = load_data(DataSettings())
    augment = build_augmentation(AugmentSettings(crop_padding=1), 0, len(data.train), (1, 8, 8))
    ahead, plain = (kind(data.train.inputs, data.facts, torch.device("cpu"), augment) for kind in (ReadAhead, Samples))
    indices, epochs = RANDOM.integers(0, 1000, (5, 16)).astype(np.int32), np.array([0, 0, 0, 1, 1], dtype=np.int32)
    broken_off = ahead.read(indices[::-1], epochs)
    next(broken_off)
    others = ahead.read(indices[::-1], epochs)  # two blocks that are trained at the same time
    for one, other, expected, reverse in zip(
        ahead.read(indices, epochs), others, plain.read(indices, epochs), plain.read(indices[::-1], epochs), strict=True
    ):
        assert torch.equal(one, expected)
        assert torch.equal(other, reverse)
