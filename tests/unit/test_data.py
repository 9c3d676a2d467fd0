"""Data sets: splits that never mix, labels and shapes that fit, files that are what they should be."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from noprop_dist.config.schema import DataSettings
from noprop_dist.data.dataset import DataFacts, Split, check_labels, split_off
from noprop_dist.data.image_file import read_image
from noprop_dist.data.load import load_data
from noprop_dist.data.samples import Samples
from noprop_dist.errors import UserError

RANDOM = np.random.default_rng(0)


def rows(split):
    return {row.tobytes() for row in split.inputs}


def test_digits_are_split_into_disjoint_parts_with_every_class_in_each():
    data = load_data(DataSettings())
    parts = (data.train, data.held_out.validation, data.held_out.test)
    assert sum(map(len, parts)) == 1797
    assert data.facts.samples == {"train": 1295, "validation": 143, "test": 359}
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert not rows(parts[one]) & rows(parts[other])
    assert all(set(part.labels) == set(range(10)) for part in parts)
    assert data.train.inputs.shape[1:] == (1, 8, 8) == data.facts.input_shape


def test_a_split_is_the_same_in_every_run():
    one, other = load_data(DataSettings()), load_data(DataSettings())
    assert one.facts == other.facts
    assert DataFacts.from_json(one.facts.to_json()) == one.facts


def test_normalised_training_samples_have_mean_0_and_standard_deviation_1():
    data = load_data(DataSettings())
    x = Samples(data.train.inputs, data.facts, torch.device("cpu")).batch(np.arange(len(data.train)))
    assert x.dtype == torch.float32
    assert float(x.mean()) == pytest.approx(0, abs=0.02)
    assert float(x.std()) == pytest.approx(1, abs=0.02)


def test_split_off_takes_the_fraction_of_every_class():
    split = Split(np.arange(100, dtype=np.float32)[:, None], np.repeat([0, 1], [80, 20]))
    left, taken = split_off(split, 0.25)
    assert np.bincount(taken.labels).tolist() == [20, 5]
    assert not set(left.inputs[:, 0]) & set(taken.inputs[:, 0])


@pytest.mark.parametrize(("labels", "message"), [([0, 3], "label 3 of sample 1 is outside 0..2"), ([-1, 0], "label -1"),
                                                 ([0], "2 samples but 1 labels"), ([], "has no samples")])  # fmt: skip
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        check_labels(Split(np.zeros((2, 1), np.float32), np.array(labels, dtype=np.int64)), 3, "data x")


# --- torchvision ------------------------------------------------------------------------------------------------


def write_idx(file, array, packed):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    with (gzip.open if packed else open)(file, "wb") as out:
        out.write(header + array.tobytes())


def write_mnist(root, name="MNIST", packed=True):
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    suffix = ".gz" if packed else ""
    for part, n in (("train", 60), ("t10k", 20)):
        write_idx(raw / f"{part}-images-idx3-ubyte{suffix}", RANDOM.integers(0, 256, (n, 28, 28), np.uint8), packed)
        write_idx(raw / f"{part}-labels-idx1-ubyte{suffix}", np.resize(np.arange(10, dtype=np.uint8), n), packed)
    return root


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_packed_or_not_and_its_root_is_left_as_it_was(tmp_path, name, folder, packed):
    root = write_mnist(tmp_path, folder, packed)
    before = sorted(str(file) for file in root.rglob("*"))
    data = load_data(DataSettings(name=name, root=str(root), download=False))
    assert data.facts.input_shape == (1, 28, 28)
    assert data.facts.samples == {"train": 50, "validation": 10, "test": 20}
    assert sorted(str(file) for file in root.rglob("*")) == before


def test_cifar_comes_as_channels_first(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    for name in names:
        images = RANDOM.integers(0, 256, (20, 3072), np.uint8)
        content = {"data": images, "labels": [*range(10)] * 2}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"thing {n}" for n in range(10)]}))
    import torchvision.datasets.cifar as cifar

    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)  # the real files have known checksums
    data = load_data(DataSettings(name="cifar10", root=str(tmp_path), download=False))
    assert data.held_out.test.inputs.shape == (20, 3, 32, 32)
    assert np.array_equal(data.held_out.test.inputs[0], images[0].reshape(3, 32, 32))
    assert data.facts.class_names[3] == "thing 3"


def test_missing_and_truncated_files_are_told_with_their_root(tmp_path):
    with pytest.raises(UserError, match=f"data.root={tmp_path / 'none'}: mnist is not there .*download is off"):
        load_data(DataSettings(name="mnist", root=str(tmp_path / "none"), download=False))
    root = write_mnist(tmp_path)
    file = root / "MNIST/raw/train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="a file of it is broken.*EOFError"):
        load_data(DataSettings(name="mnist", root=str(root), download=False))


# --- image folder -----------------------------------------------------------------------------------------------


def write_images(folder, classes=("cat", "dog"), count=10, size=(6, 5), mode="RGB"):
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new(mode, size, (20 * label + number) if mode == "L" else (50 * label, number, 0)).save(
                folder / name / f"{number:02}.png"
            )


def test_an_image_folder_is_read_with_a_class_per_subfolder(tmp_path):
    write_images(tmp_path)
    data = load_data(DataSettings(name="image-folder", root=str(tmp_path), test_fraction=0.2))
    assert data.facts.class_names == ("cat", "dog")
    assert data.facts.input_shape == (3, 5, 6)
    assert data.facts.samples == {"train": 14, "validation": 2, "test": 4}


def test_given_train_and_test_folders_are_kept_apart(tmp_path):
    write_images(tmp_path / "train", mode="L")
    write_images(tmp_path / "test", count=3, mode="L")
    data = load_data(DataSettings(name="image-folder", root=str(tmp_path)))
    assert data.facts.input_shape == (1, 5, 6)
    assert data.facts.samples["test"] == 6


def test_image_folders_that_do_not_fit_are_refused(tmp_path):
    def load(**more):
        return load_data(DataSettings(name="image-folder", root=str(tmp_path), **more))

    with pytest.raises(UserError, match="no such folder"):
        load_data(DataSettings(name="image-folder", root=str(tmp_path / "none")))
    with pytest.raises(UserError, match="0 class subfolder"):
        load()
    write_images(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "dog" / "zz.png")
    with pytest.raises(UserError, match="zz.png: is 9×9 pixels, the first image is 5×6; set data.image_size"):
        load()
    assert load(image_size=8).facts.input_shape == (3, 8, 8)
    (tmp_path / "dog" / "zz.png").write_text("no image")
    with pytest.raises(UserError, match="zz.png: is no readable image"):
        load()
    (tmp_path / "emu").mkdir()
    with pytest.raises(UserError, match="emu: holds no images"):
        load()


# --- npz --------------------------------------------------------------------------------------------------------


def load_npz(file, **arrays):
    if arrays:
        np.savez(file, **arrays)
    return load_data(DataSettings(name="npz", root=str(file)))


LABELS = np.resize(np.arange(3), 60)


@pytest.mark.parametrize(
    ("shape", "dtype", "input_shape"),
    [((60, 8, 8), np.uint8, (1, 8, 8)), ((60, 8, 8, 3), np.uint8, (3, 8, 8)), ((60, 3, 8, 8), np.uint8, (3, 8, 8)),
     ((60, 12), np.float64, (12,))],
)  # fmt: skip
def test_npz_arrays_become_images_or_vectors(tmp_path, shape, dtype, input_shape):
    x = RANDOM.integers(0, 256, shape).astype(dtype)
    data = load_npz(tmp_path / "d.npz", x_train=x, y_train=LABELS)
    assert data.facts.input_shape == input_shape
    assert data.facts.classes == 3
    with_test = load_npz(tmp_path / "e.npz", x_train=x, y_train=LABELS, x_test=x[:9], y_test=LABELS[:9])
    assert with_test.facts.samples["test"] == 9


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": LABELS}, "has no array x_train; it holds x"),
        ({"x_train": np.zeros((60, 2)), "y_train": LABELS * 0.5}, "y_train is float64"),
        ({"x_train": np.zeros((60, 2), int), "y_train": LABELS}, "x_train is int64 of shape"),
        ({"x_train": np.full((60, 2), np.nan), "y_train": LABELS}, "x_train holds nan; values must be finite"),
        ({"x_train": np.zeros((60, 2)), "y_train": LABELS - 1}, "label -1 of sample 0 is outside of the 3 classes"),
        ({"x_train": np.zeros((60, 2)), "y_train": LABELS, "x_test": np.zeros((3, 4)), "y_test": LABELS[:3]},
         r"training samples are float32 of shape \(2,\), test samples float32 of shape \(4,\)"),
        ({"x_train": np.array([{}] * 60), "y_train": LABELS}, "x_train holds Python objects"),
    ],
)  # fmt: skip
def test_npz_files_that_do_not_fit_are_refused(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        load_npz(tmp_path / "d.npz", **arrays)


def test_npz_files_that_are_missing_or_truncated_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        load_npz(tmp_path / "none.npz")
    file = tmp_path / "d.npz"
    np.savez(file, x_train=np.zeros((60, 2)), y_train=LABELS)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match="is no complete .npz file"):
        load_npz(file)


def test_labels_beyond_the_given_number_of_classes_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x_train=np.zeros((60, 2)), y_train=LABELS)
    with pytest.raises(UserError, match=r"label 2 of sample 2 is outside of the 2 classes 0, 1"):
        load_data(DataSettings(name="npz", root=str(tmp_path / "d.npz"), classes=2))


# --- single images ---------------------------------------------------------------------------------------------


def test_an_image_file_is_brought_to_channels_and_size(tmp_path):
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "red.png")
    assert read_image(tmp_path / "red.png").shape == (3, 10, 20)
    assert read_image(tmp_path / "red.png", channels=1, size=(8, 8)).shape == (1, 8, 8)
    with pytest.raises(UserError, match="there is no such file"):
        read_image(tmp_path / "none.png")
