"""The run directory: whole or not at all, checked when read, never executed."""

import json
import pickle

import numpy as np
import pytest

from noprop_dist.errors import UserError
from noprop_dist.storage.checkpoints import CheckpointWriter
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.storage.snapshot_files import from_files, to_files
from noprop_dist.storage.store import Store


def snapshot_at(step, stage=1, value=1.0):
    weights = {"layer.weight": np.full((2, 3), value, np.float32), "norm.count": np.array(step, np.int64)}
    return Snapshot(stage, step, weights, {"0.step": np.array(1.5, np.float32)}, '{"group": {"lr": 0.001}}')


def test_a_snapshot_survives_its_files_with_every_bit_and_shape():
    before = snapshot_at(7, value=0.1)
    after = from_files(*to_files(before, "block-01").values())
    assert (after.stage, after.step, after.settings) == (1, 7, before.settings)
    assert after.fingerprint() == before.fingerprint()
    assert after.weights["norm.count"].shape == ()
    assert np.array_equal(after.optimizer["0.step"], before.optimizer["0.step"])


def test_a_fingerprint_tells_names_shapes_types_and_single_bits_apart():
    base = snapshot_at(1).weights
    others = [
        {**base, "layer.weight": base["layer.weight"].reshape(3, 2)},
        {**base, "layer.weight": base["layer.weight"].view(np.int32)},
        {**base, "layer.weight": np.nextafter(base["layer.weight"], 2)},
        {"other": base["layer.weight"], "norm.count": base["norm.count"]},
    ]
    prints = {Snapshot(1, 1, weights, {}, "").fingerprint() for weights in [base, *others]}
    assert len(prints) == 5
    reordered = dict(reversed(base.items()))
    assert Snapshot(1, 1, reordered, {}, "").fingerprint() == Snapshot(1, 1, base, {}, "").fingerprint()


def test_a_checkpoint_is_complete_only_with_its_manifest(tmp_path):
    directory = RunDirectory(str(tmp_path))
    writer = CheckpointWriter(directory.checkpoints, {1: "block-01", 2: "classifier"}, (5, 10), num_to_keep=2)
    assert not writer.add(snapshot_at(5, stage=1))
    assert directory.checkpoints.steps() == []
    with pytest.raises(UserError, match="holds no complete checkpoint yet"):
        directory.checkpoints.manifest()
    assert not writer.add(snapshot_at(10, stage=1)), "stages need not arrive step by step"
    assert writer.add(snapshot_at(5, stage=2))
    assert directory.checkpoints.steps() == [5]
    assert directory.checkpoints.load_all()[1].fingerprint() == snapshot_at(5).fingerprint()


def test_old_checkpoints_are_deleted_but_not_before_they_were_evaluated(tmp_path):
    directory = RunDirectory(str(tmp_path))
    writer = CheckpointWriter(directory.checkpoints, {1: "block-01"}, (5, 10, 15, 20), num_to_keep=2)
    for step in (5, 10, 15, 20):
        writer.add(snapshot_at(step))
    writer.prune(up_to=5)
    assert directory.checkpoints.steps() == [10, 15, 20], "step 10 may be waiting for its evaluation"
    writer.prune(up_to=20)
    assert directory.checkpoints.steps() == [15, 20]


def test_a_flipped_bit_and_a_missing_file_are_noticed(tmp_path):
    directory = RunDirectory(str(tmp_path))
    CheckpointWriter(directory.checkpoints, {1: "block-01"}, (5, 10), 2).add(snapshot_at(5))
    file = tmp_path / "checkpoints/step-00000005/block-01.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"block-01.safetensors of step 5 is damaged \(its checksum"):
        directory.checkpoints.load_all()
    file.unlink()
    with pytest.raises(UserError, match="block-01.safetensors of step 5 cannot be read"):
        directory.checkpoints.load_all()


def test_a_truncated_manifest_is_told(tmp_path):
    directory = RunDirectory(str(tmp_path))
    CheckpointWriter(directory.checkpoints, {1: "block-01"}, (5, 10), 2).add(snapshot_at(5))
    (tmp_path / "checkpoints/step-00000005/manifest.json").write_text('{"step": 5, "sta')
    with pytest.raises(UserError, match="the manifest of step 5 cannot be read"):
        directory.checkpoints.load_all()


def test_a_crafted_pickle_in_place_of_weights_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with pytest.raises(ValueError, match="no snapshot"):
        from_files(pickle.dumps(Evil()), pickle.dumps(Evil()))
    assert not (tmp_path / "ran").exists()


def test_a_directory_with_a_run_is_refused_and_left_alone(small_run):
    directory = small_run()
    with pytest.raises(UserError, match="already holds a run; `noprop-dist resume"):
        directory.create(directory.config(), directory.facts())
    assert directory.config().blocks.count == 3


def test_a_directory_that_cannot_be_written_is_refused(tmp_path, small_setup):
    (tmp_path / "file").write_text("not a folder")
    setup, _ = small_setup
    with pytest.raises(UserError, match="the run directory cannot be written"):
        RunDirectory(str(tmp_path / "file" / "run")).create(setup.config, setup.facts)


def test_damaged_descriptions_of_a_run_are_told(small_run):
    directory = small_run()
    store = Store(str(directory))
    store.write("data.json", b"{}")
    with pytest.raises(UserError, match="data.json cannot be read"):
        directory.facts()
    store.write("config.yaml", b"blocks: {count: 0}")
    with pytest.raises(UserError, match="config.yaml cannot be read: blocks.count: 0 is not allowed"):
        directory.config()


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        RunDirectory(str(tmp_path)).config()


def test_rounds_that_will_be_done_again_are_forgotten_and_nothing_else(tmp_path):
    directory = RunDirectory(str(tmp_path))
    rounds = [{"kind": "round", "stage": f"block {t}", "step": step} for t in (1, 2) for step in (5, 10)]
    directory.append_metrics([*rounds, {"kind": "evaluation", "step": 10}])
    directory.forget_rounds_after({"block 1": 5, "block 2": 10})
    assert directory.metrics() == [rounds[0], *rounds[2:], {"kind": "evaluation", "step": 10}]


def test_a_cut_off_last_line_of_metrics_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    assert RunDirectory(str(tmp_path)).metrics() == [{"step": 1}]


def test_the_same_store_works_through_a_uri(tmp_path):
    store = Store(f"file://{tmp_path}/deep/er")
    store.write("a/b.txt", b"1")
    store.append("a/b.txt", b"2")
    store.write("c.txt", b"3")
    assert store.read("a/b.txt") == b"12"
    assert store.names("a") == ["b.txt"]
    assert store.exists("c.txt")
    assert not store.exists("d.txt")
    store.delete_folder("a")
    assert store.names("a") == []


class WithoutAppend:
    """A file system as object stores are: it refuses to append."""

    def __init__(self, files):
        self.files = files

    def open_append_stream(self, path):
        raise NotImplementedError("It is not possible to append efficiently to S3 objects")

    def __getattr__(self, name):
        return getattr(self.files, name)


def test_appending_works_where_the_file_system_cannot(tmp_path):
    store = Store(str(tmp_path))
    store._files = WithoutAppend(store._files)
    store.append("log", b"1")
    store.append("log", b"2")
    assert store.read("log") == b"12"


def test_an_unknown_kind_of_storage_is_refused():
    with pytest.raises(UserError, match="nosuch://x: is no path or URI"):
        Store("nosuch://x")


def test_nothing_half_written_is_left_behind(tmp_path):
    store = Store(str(tmp_path))
    store.write("a", b"old")
    store.write("a", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"
