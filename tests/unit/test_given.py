"""Data that a caller holds becomes the same named arrays as a .npz file's."""

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from noprop_dist.config.schema import DataSettings
from noprop_dist.data.given import given_data
from noprop_dist.data.npz import load_npz
from noprop_dist.errors import UserError

SETTINGS = DataSettings(name="given")
X = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
Y = np.arange(60) % 3


class Pictures(Dataset):
    """Samples of Pillow, as torchvision's data sets have them without a transform."""

    classes = ("cat", "dog", "eel")

    def __init__(self, mode="L"):
        self.mode = mode

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return Image.fromarray(X[index]).convert(self.mode), int(Y[index])


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(X[0], 0)])


class Broken(Dataset):
    def __init__(self, length=5):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index == 2:
            raise ZeroDivisionError("no luck")
        return X[index], 0


def test_arrays_make_the_data_set_that_their_npz_file_makes(tmp_path):
    np.savez(tmp_path / "data.npz", x_train=X, y_train=Y)
    from_file = load_npz(DataSettings(name="npz", root=str(tmp_path / "data.npz")))
    for data in ((X, Y), {"x_train": X, "y_train": Y}, {"train": (X, Y)}, (torch.from_numpy(X), torch.from_numpy(Y))):
        given = given_data(data).load(SETTINGS)
        assert given.facts.sha256 == from_file.facts.sha256
        assert given.facts.test_sha256 == from_file.facts.test_sha256


@pytest.mark.parametrize("change", [np.ascontiguousarray, np.asfortranarray, lambda x: x.astype(">f8")])
def test_arrays_are_taken_however_they_lie_in_memory(change):
    backwards = given_data((change(X)[::-1], Y[::-1])).load(SETTINGS)
    as_they_are = given_data((change(X[::-1].copy()), Y[::-1].copy())).load(SETTINGS)
    assert backwards.facts == as_they_are.facts
    assert torch.from_numpy(backwards.train.inputs[:]).shape[1:] == backwards.facts.input_shape


def test_pairs_of_train_and_test_are_read_as_keras_has_them():
    data = given_data(((X, Y), (X[:30], Y[:30]))).load(SETTINGS)
    assert data.facts.samples["test"] == 30
    for lists in ([[X, Y], [X, Y]], ([X, Y], [X, Y]), [(X, Y), [torch.from_numpy(X), pandas.Series(Y)]]):
        assert given_data(lists).names == ["x_train", "y_train", "x_test", "y_test"]
    assert given_data([[X[0], X[1]], [Y[0], Y[1]]]).names == ["x_train", "y_train"], "two samples and their labels"
    assert given_data((Pictures(), (X[:, None], Y))).names == ["x_train", "y_train", "x_test", "y_test"]


def test_tables_are_arrays():
    data = given_data((pandas.DataFrame(X.reshape(60, -1) / 255), pandas.Series(Y))).load(SETTINGS)
    assert data.facts.input_shape == (64,)


def test_a_torch_dataset_of_tensors_is_read_as_it_stands():
    data = given_data(TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 4)).load(SETTINGS)
    assert data.facts.input_shape == (1, 8, 8)
    assert data.facts.dtype == "float32"
    assert data.facts.classes == 4


def test_pictures_and_the_names_of_their_classes_are_read_as_torchvision_has_them():
    data = given_data((Pictures(), Pictures())).load(SETTINGS)
    assert data.facts.class_names == ("cat", "dog", "eel")
    assert data.facts.input_shape == (1, 8, 8)
    assert data.facts.samples["test"] == 60
    assert given_data(Pictures("RGB")).load(SETTINGS).facts.input_shape == (3, 8, 8)


def test_classes_of_other_splits_are_those_of_the_same_names():
    class Others(Pictures):
        classes = ("dog", "eel", "cat")

    found = given_data({"train": Pictures(), "test": Others()})
    assert found.arrays["y_train"][:3].tolist() == [0, 1, 2]
    assert found.arrays["y_test"][:3].tolist() == [1, 2, 0]
    Others.classes = ("dog", "eel", "fox")
    with pytest.raises(UserError, match="data: test has class 'fox', and train has the classes cat, dog, eel"):
        given_data({"train": Pictures(), "test": Others()})


def test_a_hugging_face_dataset_is_read_by_the_types_of_its_columns():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"picture": datasets.Image(), "id": datasets.Value("int32"), "kind": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    rows = {"picture": [Image.fromarray(x) for x in X], "id": list(range(60)), "kind": Y.tolist()}
    both = datasets.DatasetDict(
        {part: datasets.Dataset.from_dict(rows, features=features) for part in ("train", "test")}
    )
    found = given_data(both)
    assert found.class_names == ("a", "b", "c")
    assert (found.arrays["x_train"][:, 0] == X).all()
    assert (found.arrays["y_test"] == Y).all()


def test_columns_that_are_not_found_can_be_named():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"pixels": X.reshape(60, -1).astype(float), "first": Y, "second": Y % 2})
    with pytest.raises(UserError, match=r"none is known as the image; data.columns=\[IMAGE, LABEL\] names them"):
        given_data(data)
    assert given_data(data, ("pixels", "second")).arrays["y_train"].max() == 1
    with pytest.raises(UserError, match="train has no column 'third', but pixels, first, second"):
        given_data(data, ("pixels", "third"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(TensorDataset(torch.rand(4, 2), torch.arange(4))), "is a DataLoader; hand over its dataset"),
        (7, "train is int; allowed are a pair"),
        (Stream(), "train is a stream, Stream; read it into a Dataset that has a length"),
        (Broken(), "sample 2 of train cannot be read: ZeroDivisionError: no luck"),
        (Broken(0), "data: train has no samples"),
        (pandas.DataFrame({"a": Y}), "train is DataFrame; allowed are a pair"),
        ("digits", "train is str; allowed are a pair"),
        ({"left": (X, Y)}, "has a split 'left', allowed are train, val and test"),
        ({"train": (X, Y), "val": (X, Y), "validation": (X, Y)}, "has two splits that mean val"),
        ({"x_test": X, "y_test": Y}, "data: has no array x_train; it holds x_test, y_test"),
        ((X, Y[:10]), "x_train has 60 samples, y_train 10 labels"),
        ((np.array([object()] * 60), Y), "holds object, arrays of plain numbers are needed"),
        ((np.ma.masked_less(X, 9), Y), "x of train: is a masked array, and what is masked has no value; hand over"),
        ((X, np.ma.masked_less(Y, 1)), "y of train: is a masked array"),
        ({"x_train": np.ma.masked_less(X, 9), "y_train": Y}, "x_train: is a masked array"),
        (TensorDataset(torch.rand(4, 2)), "sample 0 of train is tuple, a pair"),
        (TensorDataset(torch.rand(4, 2), torch.rand(4)), "has the label .*, one integer is needed"),
        ([(X[0], 0), (X[1], 1)], "allowed are|arrays of plain numbers|is no array"),
    ],
)
def test_what_is_no_data_is_one_sentence(data, message):
    with pytest.raises(UserError, match=message):
        given_data(data).load(SETTINGS)


def test_samples_of_different_shape_name_the_first_that_differs():
    class Ragged(Pictures):
        def __getitem__(self, index):
            return np.zeros((1, 8, 8 + (index == 5)), np.uint8), 0

    with pytest.raises(UserError, match=r"sample 5 of train is uint8 of shape \(1, 8, 9\), the first is"):
        given_data(Ragged())


def test_a_picture_in_colour_among_grey_ones_is_told():
    class Mixed(Pictures):
        def __getitem__(self, index):
            return Image.fromarray(X[index]).convert("RGB" if index == 3 else "L"), 0

    with pytest.raises(UserError, match="sample 3 of train is in colour, the ones before are grey"):
        given_data(Mixed())
