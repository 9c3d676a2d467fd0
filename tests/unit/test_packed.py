"""Data larger than memory: packed once, mapped ever after, and the same run."""

import json
import pickle

import numpy as np
import pytest
from test_data import write_images
from typer.testing import CliRunner

from noprop_dist.cli.app import app
from noprop_dist.config.schema import DataSettings
from noprop_dist.data import inputs as inputs_module
from noprop_dist.data import packed as packed_module
from noprop_dist.data.inputs import MappedInputs
from noprop_dist.data.load import load_data
from noprop_dist.data.packed import pack
from noprop_dist.errors import UserError
from noprop_dist.storage.store import Store
from noprop_dist.training.setup import prepare

DIGITS = DataSettings()


def packed(folder, settings=DIGITS):
    pack(lambda keep: load_data(settings, keep), folder, lambda *_: None)
    return load_data(DataSettings(name="packed", root=str(folder)))


@pytest.mark.parametrize("chunk_bytes", [100, 2**24])
def test_a_packed_data_set_is_the_same_data_set(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(inputs_module, "CHUNK_BYTES", chunk_bytes)
    write_images(tmp_path / "images")
    settings = DataSettings(name="image-folder", root=str(tmp_path / "images"))
    data, mapped = load_data(settings), packed(tmp_path / "packed", settings)
    assert mapped.facts == data.facts
    for one, other in [(data.train, mapped.train), (data.held_out.test, mapped.held_out.test),
                       (data.held_out.validation, mapped.held_out.validation)]:  # fmt: skip
        assert np.array_equal(one.inputs, other.inputs[:])
        assert np.array_equal(one.labels, other.labels)


def test_mean_and_deviation_are_those_of_all_samples(tmp_path):
    x = np.random.default_rng(0).normal(3, 2, (60, 3, 4, 5)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=np.resize(np.arange(3), 60))
    data = load_data(DataSettings(name="npz", root=str(tmp_path / "d.npz")))
    trained = data.train.inputs.astype(np.float64)
    assert data.facts.mean == pytest.approx(trained.mean(axis=(0, 2, 3)), rel=1e-12)
    assert data.facts.std == pytest.approx(trained.std(axis=(0, 2, 3)), rel=1e-12)


def test_mapped_samples_travel_as_their_path_alone(tmp_path):
    train = packed(tmp_path / "packed").train
    message = pickle.dumps(train.inputs)
    assert len(message) < 300 < train.inputs.nbytes
    assert np.array_equal(pickle.loads(message)[:5], train.inputs[:5])
    assert isinstance(train.inputs, MappedInputs)
    assert type(train.inputs[np.arange(3)]) is np.ndarray


def test_training_on_mapped_samples_gives_the_same_bits(tmp_path, small_run):
    packed(tmp_path / "packed")
    resident = small_run(name="resident")
    mapped = small_run(f"data={{name: packed, root: {tmp_path / 'packed'}}}", name="mapped")
    one, other = ([entry.sha256 for entry in run.checkpoints.manifest().stages] for run in (resident, mapped))
    assert one == other


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "packed").mkdir()
    with pytest.raises(UserError, match="packed: is there already"):
        packed(tmp_path / "packed")


def test_nothing_is_left_where_packing_failed(tmp_path):
    def broken(keep):
        keep("train", np.zeros((3, 2), np.float32))
        raise UserError("a file is broken")

    with pytest.raises(UserError, match="a file is broken"):
        pack(broken, tmp_path / "packed", lambda *_: None)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_whole_packed_data_set_is_refused(tmp_path):
    folder = tmp_path / "packed"

    def load():
        return load_data(DataSettings(name="packed", root=str(folder)))

    with pytest.raises(UserError, match=r"has no packed.json; `noprop-dist pack` makes"):
        load()
    packed(folder)
    described = json.loads((folder / "packed.json").read_text())
    (folder / "packed.json").write_text(json.dumps(described | {"layout": 2}))
    with pytest.raises(UserError, match="is packed in layout 2, this release reads 1"):
        load()
    described["facts"]["samples"]["train"] += 1
    (folder / "packed.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"train.npy has shape \(1295, 1, 8, 8\), packed.json says \(1296"):
        load()
    with (folder / "train.npy").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match=r"train.npy: cannot be mapped on .*has to lie, whole"):
        load()


def test_pack_by_the_command_line_says_how_the_folder_is_used(tmp_path):
    done = CliRunner().invoke(app, ["pack", str(tmp_path / "packed")], catch_exceptions=False)
    assert f"use it with --set data.name=packed --set data.root={tmp_path / 'packed'}" in done.stdout
    settings = DataSettings(name="packed", root=str(tmp_path / "packed"))
    assert load_data(settings).facts == load_data(DIGITS).facts
    again = ["pack", str(tmp_path / "other"), "--set", "data={name: packed, root: x}"]
    assert "is packed already" in str(CliRunner().invoke(app, again).exception)


def test_prototypes_are_found_among_mapped_samples(tmp_path, small_config):
    packed(tmp_path / "packed")
    data = ("data={name: digits}", f"data={{name: packed, root: {tmp_path / 'packed'}}}")
    resident, mapped = (prepare(small_config("embedding={kind: prototype}", each))[0] for each in data)
    assert np.array_equal(resident.initial_embedding, mapped.initial_embedding)


@pytest.mark.parametrize("content", ["[]", "null", "[[[", '{"layout": 1}', '{"layout": 1, "facts": {"name": 3}}'])
def test_a_damaged_description_is_told_in_one_sentence(tmp_path, content):
    (tmp_path / "packed.json").write_text(content)
    with pytest.raises(UserError, match="packed.json is damaged|is packed in layout None") as refused:
        load_data(DataSettings(name="packed", root=str(tmp_path)))
    assert "\n" not in str(refused.value)


def test_labels_of_no_class_are_refused(tmp_path):
    packed(tmp_path / "packed")
    labels = np.load(tmp_path / "packed" / "test-labels.npy")
    labels[7] = 10
    np.save(tmp_path / "packed" / "test-labels.npy", labels)
    with pytest.raises(UserError, match=r"test-labels.npy: label 10 of sample 7 is outside 0..9"):
        load_data(DataSettings(name="packed", root=str(tmp_path / "packed")))


def test_damaged_facts_of_a_run_are_told_in_one_sentence(small_run):
    run = small_run()
    for content in (b"[]", b'{"name": 3}', b"[1"):
        Store(str(run)).write("data.json", content)
        with pytest.raises(UserError, match="data.json cannot be read") as refused:
            run.facts()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("whole", [2**30, 0])
@pytest.mark.parametrize("name", ["train", "test", "train-labels", "test-labels"])
def test_packed_samples_that_were_replaced_are_refused(tmp_path, monkeypatch, name, whole):
    monkeypatch.setattr(packed_module, "READ_WHOLE_BYTES", whole)
    packed(tmp_path / "packed")
    file = tmp_path / "packed" / f"{name}.npy"
    np.save(file, np.load(file)[::-1])
    with pytest.raises(UserError, match=f"{name.removesuffix('-labels')}.npy or its labels are not what was packed"):
        load_data(DataSettings(name="packed", root=str(tmp_path / "packed")))
