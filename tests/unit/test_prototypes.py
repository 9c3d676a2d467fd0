"""Prototype embeddings: the most typical sample of each class."""

import numpy as np
import pytest

from noprop_dist.data import prototypes
from noprop_dist.data.dataset import Split
from noprop_dist.data.prototypes import prototype_indices
from noprop_dist.errors import UserError
from noprop_dist.training.setup import prepare


def brute_force(split, classes):
    """By its definition, with all pairs at once."""
    chosen = []
    for label in range(classes):
        members = np.flatnonzero(split.labels == label)
        x = split.inputs[members].reshape(len(members), -1).astype(np.float64)
        distances = np.linalg.norm(x[:, None] - x[None], axis=2)
        medians = [np.median(np.delete(row, i)) for i, row in enumerate(distances)] if len(x) > 2 else [0.0]
        chosen.append(members[int(np.argmin(medians))])
    return chosen


@pytest.mark.parametrize("chunk_bytes", [1, 5000, 64 * 2**20], ids=["row by row", "a few rows", "all at once"])
@pytest.mark.parametrize("samples", [40, 41, 200])
def test_the_choice_is_that_of_the_definition_however_few_distances_are_held(monkeypatch, chunk_bytes, samples):
    monkeypatch.setattr(prototypes, "CHUNK_BYTES", chunk_bytes)
    random = np.random.default_rng(samples)
    split = Split(random.integers(0, 256, (samples, 1, 4, 4), dtype=np.uint8), random.integers(0, 3, samples))
    assert prototype_indices(split, 3).tolist() == brute_force(split, 3)


def test_a_class_of_one_or_two_samples_has_a_prototype():
    inputs = np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2)
    assert prototype_indices(Split(inputs, np.array([0, 1, 1])), 2).tolist() == [0, 1]


def test_prototypes_are_normalised_as_the_images_are(small_config):
    setup, data = prepare(small_config("embedding={kind: prototype}"))
    chosen = data.train.inputs[brute_force(data.train, 10)].reshape(10, -1).astype(np.float32)
    assert setup.embedding.shape == (10, 64)
    correlation = np.corrcoef(setup.embedding.numpy().ravel(), chosen.ravel())[0, 1]
    assert correlation == pytest.approx(1, abs=1e-6), "the same pixels, shifted and scaled"
    assert abs(float(setup.embedding.mean())) < 0.2


def test_a_class_without_samples_is_named(small_config, tmp_path):
    file = tmp_path / "data.npz"
    x = np.zeros((60, 1, 4, 4), dtype=np.uint8)
    labels = np.array([0, 2] * 30)
    np.savez(file, x_train=x, y_train=labels, x_test=x, y_test=labels)
    with pytest.raises(UserError, match="no sample of class 1"):
        prepare(small_config(f"data={{name: npz, root: {file}, classes: 3}}", "embedding={kind: prototype}",
                             "training.batch_size=8"))  # fmt: skip
