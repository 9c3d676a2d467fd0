"""Data sets: splits that never mix, labels and shapes that fit, files that are what they should be."""

import gzip
import os
import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from noprop_dist.config.schema import DataSettings
from noprop_dist.data import digits
from noprop_dist.data.dataset import DataFacts, Split, check_labels, split_off
from noprop_dist.data.digits import load_digits
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


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_files_hold_what_torchvision_reads_and_it_is_not_imported_for_them(tmp_path, monkeypatch, name, folder):
    import torchvision.datasets

    write_mnist(tmp_path, folder, packed=False)
    theirs = getattr(torchvision.datasets, folder)(tmp_path, train=False)
    monkeypatch.setattr("noprop_dist.data.torchvision_sets._torchvision_set", None)
    data = load_data(DataSettings(name=name, root=str(tmp_path), download=False))
    assert np.array_equal(data.held_out.test.inputs[:, 0], theirs.data.numpy())
    assert np.array_equal(data.held_out.test.labels, theirs.targets.numpy())
    assert list(data.facts.class_names) == theirs.classes


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: b"",
        lambda content: b"\0\0\x0d" + content[3:],
        lambda content: content[:9],
    ],
)
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_broken_idx_files_are_told(tmp_path, file, damage):
    broken = write_mnist(tmp_path, packed=False) / "MNIST/raw" / file
    broken.write_bytes(damage(broken.read_bytes()))
    with pytest.raises(UserError, match=f"a file of it is broken.*{file} is no IDX file of bytes, or is not whole"):
        load_data(DataSettings(name="mnist", root=str(tmp_path), download=False))


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
    with pytest.raises(UserError, match=f"data.root={tmp_path / 'none'}: mnist is not there .*not to be downloaded"):
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
        ({"x_train": np.zeros((60, 2)), "y_train": LABELS - 1}, "label -1 of sample 0 is negative"),
        ({"x_train": np.zeros((60, 2)), "y_train": LABELS, "x_test": np.zeros((3, 4)), "y_test": LABELS[:3]},
         r"x_test is float64 of shape .*4\); save both with samples of one shape"),
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


def test_16_bit_pictures_keep_their_brightness(tmp_path):
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)
    for name in ("a.png", "b.tif"):
        Image.fromarray(grey).save(tmp_path / name)
        assert read_image(tmp_path / name).tolist() == [[[0, 1, 128, 255]]]
    assert read_image(tmp_path / "a.png", channels=3).tolist() == [[[0, 1, 128, 255]]] * 3


def test_a_pgm_of_12_bits_keeps_its_brightness(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5\n2 1\n4095\n" + np.array([0, 4095], ">u2").tobytes())
    assert read_image(tmp_path / "a.pgm").tolist() == [[[0, 255]]]


def test_pictures_whose_white_is_unknown_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(np.ones((2, 2), np.int32)).save(tmp_path / "i.tif")
    for name in ("f.tif", "i.tif"):
        with pytest.raises(UserError, match=f"{name}: is no readable image: .*nothing tells which value is white"):
            read_image(tmp_path / name)


def test_a_photo_is_turned_as_its_exif_orientation_says(tmp_path):
    photo = Image.new("RGB", (40, 20))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "photo.jpg", exif=exif)
    assert read_image(tmp_path / "photo.jpg").shape == (3, 40, 20)


def test_a_pipe_and_a_huge_image_are_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe.png: is no readable image: is a pipe or device, no file"):
        read_image(tmp_path / "pipe.png")
    monkeypatch.setattr("noprop_dist.data.image_file.MAX_PIXELS", 99)
    Image.new("1", (10, 10)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match="10×10 pixels are more than the 99 that are read"):
        read_image(tmp_path / "large.png")


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_image_is_told_in_one_sentence(tmp_path, seed):
    random = np.random.default_rng(seed)
    file = tmp_path / f"x.{('png', 'jpg', 'gif', 'bmp', 'webp')[seed % 5]}"
    Image.fromarray(random.integers(0, 256, (60, 60, 3), np.uint8)).save(file)
    content = bytearray(file.read_bytes())
    for _ in range(30):
        content[random.integers(len(content))] = random.integers(256)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError) as refused:
        read_image(file)
    assert "\n" not in str(refused.value)


# --- layouts of image folders -----------------------------------------------------------------------------------


def load_folder(root, **more):
    return load_data(DataSettings(name="image-folder", root=str(root), **more))


def test_what_lies_beside_images_is_left_out_and_told(tmp_path):
    write_images(tmp_path, classes=(".ipynb_checkpoints", "cat", "dog"))
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "dog" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "README.txt").write_text("x")
    data = load_folder(tmp_path)
    assert data.facts.class_names == ("cat", "dog")
    assert sum(data.facts.samples.values()) == 20
    assert len(data.notes) == 1
    assert (
        "11 hidden (.ipynb_checkpoints/00.png, …) and 2 that are no images or in no class folder (README.txt, …)"
        in data.notes[0]
    )


def test_images_in_folders_below_a_class_are_of_that_class(tmp_path):
    write_images(tmp_path)
    write_images(tmp_path / "cat", classes=("2023",), count=5)
    data = load_folder(tmp_path)
    assert sum(data.facts.samples.values()) == 25
    assert data.notes == (f"data.root={tmp_path}: 5 images in folders below class folders are of that class",)
    (tmp_path / "cat" / "2023" / "again").symlink_to(tmp_path / "cat")
    with pytest.raises(UserError, match="again: is the same folder as .*cat, by a link"):
        load_folder(tmp_path)


def test_a_folder_that_is_there_under_two_names_is_refused(tmp_path):
    write_images(tmp_path / "train")
    (tmp_path / "test").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).symlink_to(tmp_path / "train" / name)
    with pytest.raises(UserError, match="test/cat: is the same folder as .*train/cat, by a link"):
        load_folder(tmp_path)


def test_pictures_that_are_read_in_part_are_told(tmp_path):
    write_images(tmp_path)
    first, *others = (Image.new("RGB", (6, 5), (value, 0, 0)) for value in (10, 20, 30))
    first.save(tmp_path / "cat" / "film.png", save_all=True, append_images=others)
    (tmp_path / "cat" / "scan.h5").write_bytes(b"x")
    left_out, told = load_folder(tmp_path).notes
    assert "1 that are no images or in no class folder (cat/scan.h5)" in left_out
    assert told == "1 of 21 images hold several pictures, of which the first is read"


def test_a_split_folder_without_images_is_told(tmp_path):
    write_images(tmp_path / "train")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="test: holds no images"):
        load_folder(tmp_path)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_share_of_a_split_that_is_there_has_no_effect_and_that_is_told(tmp_path, part):
    write_images(tmp_path / "train")
    write_images(tmp_path / part)
    told = f"data.{part}_fraction: no effect, for this data has a {part} set"
    assert told in load_folder(tmp_path, **{f"{part}_fraction": 0.3}).notes
    short = "val" if part == "validation" else part
    arrays = {"x_train": RANDOM.random((60, 2)), "y_train": LABELS}
    np.savez(tmp_path / "d.npz", **arrays, **{f"x_{short}": arrays["x_train"], f"y_{short}": LABELS})
    settings = DataSettings(name="npz", root=str(tmp_path / "d.npz"), **{f"{part}_fraction": 0.3})
    assert told in load_data(settings).notes


def test_one_colour_image_makes_all_rgb(tmp_path):
    write_images(tmp_path, mode="L")
    Image.new("RGB", (6, 5), (200, 0, 0)).save(tmp_path / "dog" / "05.png")
    data = load_folder(tmp_path)
    assert data.facts.input_shape == (3, 5, 6)
    assert data.notes == ("19 of 20 images are grey, and are read as RGB with the others",)


@pytest.mark.parametrize(
    ("folders", "samples"),
    [
        (("train", "val"), {"train": 16, "validation": 20, "test": 4}),
        (("train", "valid", "test"), {"train": 20, "validation": 20, "test": 20}),
        (("Training", "testing"), {"train": 18, "validation": 2, "test": 20}),
        (("train",), {"train": 14, "validation": 2, "test": 4}),
    ],
)
def test_split_folders_are_the_splits(tmp_path, folders, samples):
    for folder in folders:
        write_images(tmp_path / folder)
    data = load_folder(tmp_path)
    assert data.facts.class_names == ("cat", "dog")
    assert data.facts.samples == samples


def test_a_folder_called_train_may_be_a_class(tmp_path):
    write_images(tmp_path, classes=("bus", "train"))
    assert load_folder(tmp_path).facts.class_names == ("bus", "train")


def test_layouts_that_can_be_read_in_two_ways_are_refused(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "val")
    write_images(tmp_path, classes=("emu",))
    with pytest.raises(UserError, match=r"has split folders \(train/, val/\), and images in emu/"):
        load_folder(tmp_path)
    shutil.rmtree(tmp_path / "emu")
    write_images(tmp_path / "valid")
    with pytest.raises(UserError, match="val/, valid/ are folders of the same split"):
        load_folder(tmp_path)
    shutil.rmtree(tmp_path / "valid")
    write_images(tmp_path / "val", classes=("emu",))
    with pytest.raises(UserError, match="emu: is a class that the training images lack"):
        load_folder(tmp_path)
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(UserError, match="has val/ but no train folder"):
        load_folder(tmp_path)


def test_a_class_that_the_test_images_lack_is_told(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "test", classes=("cat",))
    assert load_folder(tmp_path).notes[-1] == "the test set has no sample of 1 of 2 classes (dog)"


def test_too_few_images_for_a_validation_set_are_told_with_what_helps(tmp_path):
    write_images(tmp_path, count=4)
    with pytest.raises(UserError, match="the validation set has no samples.*set data.validation_fraction"):
        load_folder(tmp_path)
    assert load_folder(tmp_path, validation_fraction=0.4).facts.samples["validation"] == 2


# --- arrays that mean something else ----------------------------------------------------------------------------


def test_float_images_with_channels_last_are_turned_and_told(tmp_path):
    x = RANDOM.random((60, 8, 9, 3), dtype=np.float32)
    data = load_npz(tmp_path / "d.npz", x_train=x, y_train=LABELS)
    assert data.facts.input_shape == (3, 8, 9)
    assert data.facts.dtype == "float32"
    assert "is taken for images with 3 channel(s) last" in data.notes[0]
    assert load_npz(tmp_path / "e.npz", x_train=x.transpose(0, 3, 1, 2), y_train=LABELS).facts == data.facts


def test_float_images_without_channels_get_one_and_are_told(tmp_path):
    x = RANDOM.random((60, 8, 9))
    data = load_npz(tmp_path / "d.npz", x_train=x, y_train=LABELS)
    assert "is taken for images with one channel" in data.notes[0]
    assert load_npz(tmp_path / "e.npz", x_train=x[:, None], y_train=LABELS).facts == data.facts


def test_labels_in_a_column_are_labels(tmp_path):
    arrays = {"x_train": RANDOM.random((60, 2)), "x_test": RANDOM.random((9, 2)), "y_test": LABELS[:9, None]}
    data = load_npz(tmp_path / "d.npz", y_train=LABELS[:, None], **arrays)
    assert data.train.labels.ndim == data.held_out.test.labels.ndim == 1


@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 9, 3), (1, 9, 3), (3, 9, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_whose_channels_may_be_first_or_last_are_refused(tmp_path, dtype, shape):
    with pytest.raises(UserError, match="can be read as images with . channels first or . last"):
        load_npz(tmp_path / "d.npz", x_train=np.zeros((60, *shape), dtype), y_train=LABELS)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_many_channels_last_are_refused_with_what_helps(tmp_path, dtype):
    x = np.zeros((60, 16, 16, 13), dtype)
    with pytest.raises(UserError, match=r"13 channels last.*x.transpose\(0, 3, 1, 2\) puts channels first"):
        load_npz(tmp_path / "d.npz", x_train=x, y_train=LABELS)
    assert load_npz(tmp_path / "e.npz", x_train=x.transpose(0, 3, 1, 2), y_train=LABELS).facts.input_shape[0] == 13


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_rgba_is_refused(tmp_path, dtype):
    with pytest.raises(UserError, match="looks like images with 4 channels last, 1 or 3 are allowed"):
        load_npz(tmp_path / "d.npz", x_train=np.zeros((60, 8, 8, 4), dtype), y_train=LABELS)


@pytest.mark.parametrize("labels", [[1, 2, 3], [0, 1, 3], [30001, 60002, 2**32 - 1], [2**62, 2**62 + 1, 5]])
def test_labels_that_are_not_0_to_m_become_classes_of_their_name(tmp_path, labels):
    data = load_npz(tmp_path / "d.npz", x_train=RANDOM.random((60, 2)), y_train=np.resize(labels, 60))
    assert data.facts.class_names == tuple(map(str, sorted(labels)))
    assert set(data.train.labels.tolist()) == {0, 1, 2}
    assert "become classes 0 to 2 and keep their names" in data.notes[0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y_train": np.arange(60)}, "60 different labels in 60 samples, which are ids"),
        ({"y_train": LABELS[:50]}, "x_train has 60 samples, y_train 50 labels"),
        ({"y_train": np.full(60, 2**64 - 1, np.uint64)}, "labels must be below 2"),
        ({"y_train": LABELS, "x_test": np.ones((3, 2)), "y_test": np.array([0, 1, 7])},
         "y_test: label 7 of sample 2 is outside of the 3 classes 0, 1, 2"),
        ({"y_train": LABELS.astype(object)}, "y_train holds Python objects"),
        ({"y_train": LABELS * 0}, r"has 1 class\(es\), at least 2 are needed"),
        ({"y_train": LABELS, "x_test": np.zeros((0, 2)), "y_test": LABELS[:0]}, "x_test has no samples"),
        ({"y_train": np.eye(3, dtype=int)[LABELS]}, r"y_train is int64 of shape \(60, 3\)"),
        ({"y_train": LABELS, "x_train": np.full((60, 2), 1e39)}, r"x_train holds 1e\+39; values must be finite"),
        ({"y_train": LABELS, "x_train": np.zeros((60, 0))}, "hold no values"),
        ({"y_train": LABELS, "x_test": np.zeros((60, 2), np.uint8), "y_test": LABELS},
         r"x_train is float64 of shape \(60, 2\), x_test is uint8 of shape \(60, 2\); save both as uint8 from 0"),
        ({"y_train": LABELS, "x_val": np.zeros((60, 3), np.float32), "y_val": LABELS},
         r"x_train is float64 of shape \(60, 2\), x_val is float32 of shape \(60, 3\); save both with samples of one"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_say_what_they_are_are_refused(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message):
        load_npz(tmp_path / "d.npz", **({"x_train": np.zeros((60, 2))} | arrays))


def test_a_test_set_of_another_scale_is_told(tmp_path):
    x = RANDOM.random((60, 2))
    (told,) = load_npz(tmp_path / "d.npz", x_train=x, y_train=LABELS, x_test=x * 255, y_test=LABELS).notes
    assert "x_test lies between" in told
    assert told.endswith("are they scaled alike?")
    assert not load_npz(tmp_path / "e.npz", x_train=x, y_train=LABELS, x_test=x - 1, y_test=LABELS).notes


def test_given_validation_arrays_are_the_validation_set_and_other_arrays_are_told(tmp_path):
    x = RANDOM.random((60, 2))
    data = load_npz(tmp_path / "d.npz", x_train=x, y_train=LABELS, x_val=x[:9], y_val=LABELS[:9], mean=x[0])
    assert data.facts.samples == {"train": 48, "validation": 9, "test": 12}
    assert data.notes == (f"{tmp_path / 'd.npz'}: left out are the arrays mean",)


def test_a_header_that_tells_of_more_than_the_file_holds_takes_no_memory(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (8000000000000, 1), }"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x_train.npy", array)
        archive.writestr("y_train.npy", array)
    with pytest.raises(UserError, match=r"x_train is float64 of shape \(8000000000000, 1\) by its header, the file"):
        load_npz(tmp_path / "d.npz")


def test_data_larger_than_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    np.savez(tmp_path / "d.npz", x_train=np.zeros((60, 2)), y_train=LABELS)
    monkeypatch.setattr("os.sysconf", lambda _: 10)
    with pytest.raises(UserError, match="this machine has 0.0 GiB of memory"):
        load_npz(tmp_path / "d.npz")


@pytest.mark.parametrize("name", ["npz", "image-folder", "packed"])
@pytest.mark.parametrize("root", ["~nobody-of-this-name/x", "x" * 300, "a\0b", "pipe", "/dev/zero"])
def test_a_root_that_cannot_hold_data_is_told_at_once(tmp_path, monkeypatch, name, root):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError) as refused:
        load_data(DataSettings(name=name, root=root))
    assert "\n" not in str(refused.value)


def test_digits_are_the_same_where_scikit_learns_file_lies_elsewhere(monkeypatch):
    as_usual = load_digits(0.1)
    monkeypatch.setattr(digits, "find_spec", lambda _: None)
    assert load_digits(0.1).facts == as_usual.facts
