"""The run directory: whole or not at all, checked when read, never executed."""

import errno
import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from noprop_dist import api
from noprop_dist.engines.core.placement import Resources
from noprop_dist.engines.ray import coordinator
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.records import EmbeddingUpdated, Evaluated, RoundDone, UnreadLine
from noprop_dist.stages import CLASSIFIER, EMBEDDING, NETWORK, block
from noprop_dist.storage import lock
from noprop_dist.storage.checkpoint_writer import WAITING_KEPT, CheckpointWriter
from noprop_dist.storage.manifest import SettingChange
from noprop_dist.storage.metrics_files import BEGINNING
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot, from_files, to_files
from noprop_dist.storage.store import Store
from noprop_dist.storage.system import ThisSystem

T = 3
ONE = block(1)


def snapshot_at(step, stage=ONE, value=1.0):
    weights = {"layer.weight": np.full((2, 3), value, np.float32), "norm.count": np.array(step, np.int64)}
    return Snapshot(stage, step, weights, {"0.step": np.array(1.5, np.float32)}, '{"group": {"lr": 0.001}}')


def test_a_snapshot_survives_its_files_with_every_bit_and_shape():
    before = snapshot_at(7, value=0.1)
    after = from_files("block-01", *to_files(before, T).values())
    assert (after.stage, after.step, after.settings) == (ONE, 7, before.settings)
    assert after.fingerprint() == before.fingerprint()
    assert after.weights["norm.count"].shape == ()
    assert np.array_equal(after.optimizer["0.step"], before.optimizer["0.step"])


def test_a_snapshot_that_is_made_again_has_the_same_bytes():
    """A step that is done again is written over the files that the manifest of its checkpoint has checksums of."""
    assert len({tuple(to_files(snapshot_at(7), T).values()) for _ in range(30)}) == 1


def test_a_fingerprint_tells_names_shapes_types_and_single_bits_apart():
    base = snapshot_at(1).weights
    others = [
        {**base, "layer.weight": base["layer.weight"].reshape(3, 2)},
        {**base, "layer.weight": base["layer.weight"].view(np.int32)},
        {**base, "layer.weight": np.nextafter(base["layer.weight"], 2)},
        {"other": base["layer.weight"], "norm.count": base["norm.count"]},
    ]
    prints = {Snapshot(ONE, 1, weights, {}, "").fingerprint() for weights in [base, *others]}
    assert len(prints) == 5
    reordered = dict(reversed(base.items()))
    assert Snapshot(ONE, 1, reordered, {}, "").fingerprint() == Snapshot(ONE, 1, base, {}, "").fingerprint()


def test_a_checkpoint_is_complete_only_with_its_manifest(tmp_path):
    directory = RunDirectory(str(tmp_path))
    writer = CheckpointWriter(directory.checkpoints, [ONE, CLASSIFIER], T, (5, 10), num_to_keep=2)
    assert not writer.add(snapshot_at(5))
    assert directory.checkpoints.steps() == []
    with pytest.raises(UserError, match="holds no complete checkpoint yet"):
        directory.checkpoints.manifest()
    assert not writer.add(snapshot_at(10)), "stages need not arrive step by step"
    assert writer.add(snapshot_at(5, CLASSIFIER))
    assert directory.checkpoints.steps() == [5]
    assert directory.checkpoints.load_all()[ONE].fingerprint() == snapshot_at(5).fingerprint()


def test_old_checkpoints_are_deleted_but_not_before_they_were_evaluated(tmp_path):
    directory = RunDirectory(str(tmp_path))
    writer = CheckpointWriter(directory.checkpoints, [ONE], T, (5, 10, 15, 20), num_to_keep=2)
    for step in (5, 10, 15, 20):
        writer.add(snapshot_at(step))
    writer.prune(up_to=5)
    assert directory.checkpoints.steps() == [10, 15, 20], "step 10 may be waiting for its evaluation"
    writer.prune(up_to=20)
    assert directory.checkpoints.steps() == [15, 20]


def test_a_checkpoint_of_another_cadence_stays_whole_until_there_is_a_newer_one(tmp_path):
    """As after `resume --set checkpoint.every_steps=…`, or the end of a run that has become longer."""
    directory = RunDirectory(str(tmp_path))
    stages = [ONE, CLASSIFIER]
    before = CheckpointWriter(directory.checkpoints, stages, T, (5,), 1)
    assert [before.add(snapshot_at(5, stage)) for stage in stages] == [False, True]
    writer = CheckpointWriter(directory.checkpoints, stages, T, (9,), 1)
    writer.take_over()
    for step in (6, 7, 8, 9):
        writer.add(snapshot_at(step))
    assert directory.checkpoints.load_all()[ONE].step == 5
    writer.add(snapshot_at(9, CLASSIFIER))
    writer.prune(up_to=9)
    assert directory.checkpoints.steps() == [9]


def test_a_flipped_bit_and_a_missing_file_are_noticed(tmp_path):
    directory = RunDirectory(str(tmp_path))
    CheckpointWriter(directory.checkpoints, [ONE], T, (5, 10), 2).add(snapshot_at(5))
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
    CheckpointWriter(directory.checkpoints, [ONE], T, (5, 10), 2).add(snapshot_at(5))
    (tmp_path / "checkpoints/step-00000005/manifest.json").write_text('{"step": 5, "sta')
    with pytest.raises(UserError, match="manifest.json of step 5 cannot be read"):
        directory.checkpoints.load_all()


def test_a_crafted_pickle_in_place_of_weights_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with pytest.raises(ValueError, match="no snapshot"):
        from_files("block-01", pickle.dumps(Evil()), pickle.dumps(Evil()))
    assert not (tmp_path / "ran").exists()


def test_a_directory_with_a_run_is_refused_and_left_alone(copied_run):
    directory = copied_run()
    with pytest.raises(UserError, match="already holds a run; `noprop-dist resume"):
        directory.create(directory.config(), directory.facts())
    assert directory.config().blocks.count == 3


def test_a_directory_below_a_file_is_refused(tmp_path, small_setup):
    (tmp_path / "file").write_text("not a folder")
    setup, _ = small_setup
    with pytest.raises(UserError, match="file is a file; a run directory is a new folder"):
        RunDirectory(str(tmp_path / "file" / "run")).create(setup.config, setup.plan.facts)


def test_damaged_descriptions_of_a_run_are_told(copied_run):
    directory = copied_run()
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


def round_done(stage, step):
    return RoundDone(
        stage=stage, first_step=step - 5, steps=5, step=step, loss=1.0, error=1.0, gradient_norm=1.0, seconds=0.1
    )


def version_made(step):
    return EmbeddingUpdated(
        first_step=step - 5, steps=5, step=step, mean_norm=1.0, least_distance=1.0, gradient_norm=1.0, seconds=0.1
    )


MEASURED = Evaluated(
    step=10, final=False, split="test", accuracy=0.5, nearest_embedding_accuracy=0.5, sampler="mean", passes=1,
    samples=9,
)  # fmt: skip


def test_rounds_that_will_be_done_again_are_forgotten_and_nothing_else(tmp_path):
    directory = RunDirectory(str(tmp_path))
    rounds = [round_done(block(t), step) for t in (1, 2) for step in (5, 10)]
    versions = [version_made(5), version_made(10)]
    directory.append_metrics([*rounds, *versions, MEASURED])
    left, _ = directory.forget_rounds_after({block(1): 5, block(2): 10, EMBEDDING: 5})
    assert left == directory.metrics() == [rounds[0], *rounds[2:], versions[0], MEASURED]


def test_damaged_lines_are_set_aside_to_the_byte_and_told(tmp_path):
    old = b'{"kind":  "round", "stage": "block 1", "step": 5, "first_step": 0, "steps": 5, "loss": NaN, "error": 1, '
    old += b'"gradient_norm": 1e0, "seconds": 0.1}'
    later = b'{"kind": "of a later version",  "step": 99}'
    damaged = [b'{"kind": "round", "sta\xff\x00ge": "block 1"', b"[1]", b"\0" * 512]
    file, aside = tmp_path / "metrics.jsonl", tmp_path / "metrics.bad.jsonl"
    file.write_bytes(b"\n".join([old, *damaged, later, b'{"kind": "news", "te']))
    directory = RunDirectory(str(tmp_path))
    left, told = directory.forget_rounds_after({block(1): 5})
    assert [type(record) for record in left] == [RoundDone, UnreadLine]
    assert file.read_bytes() == b"".join(line + b"\n" for line in [old, later]), "a later version's lines stay"
    assert aside.read_bytes() == b"".join(line + b"\n" for line in damaged)
    assert told == [
        f"{tmp_path}: 3 line(s) of metrics.jsonl are damaged or there twice; they are set aside in metrics.bad.jsonl"
    ]
    assert directory.forget_rounds_after({block(1): 5})[1] == [], "they are told once"


def test_a_round_that_is_there_twice_counts_once(tmp_path):
    directory = RunDirectory(str(tmp_path))
    rounds = [round_done(ONE, 5), round_done(ONE, 10)]
    directory.append_metrics([rounds[0], rounds[0], version_made(5), rounds[1], version_made(5), rounds[0]])
    assert directory.metrics() == [rounds[0], version_made(5), rounds[1]]
    left, told = directory.forget_rounds_after({ONE: 10, EMBEDDING: 5})
    assert left == directory.metrics_from()[0] == [rounds[0], version_made(5), rounds[1]]
    assert "3 line(s)" in told[0]


def test_a_cut_off_last_line_of_metrics_is_left_out(tmp_path):
    directory = RunDirectory(str(tmp_path))
    directory.append_metrics([MEASURED])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert directory.metrics() == [MEASURED]


def test_a_run_that_goes_on_and_forgets_nothing_writes_nothing(tmp_path, monkeypatch):
    """So a full disk does not keep it from going on."""
    directory = RunDirectory(str(tmp_path))
    directory.append_metrics([round_done(ONE, 5)])
    with monkeypatch.context() as full:
        full.setattr(Store, "write", lambda *_: pytest.fail("it was written"))
        assert len(directory.forget_rounds_after({ONE: 5})[0]) == 1
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(whole + whole[:20])
    directory.forget_rounds_after({ONE: 5})
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole, "a last line that was cut off is dropped"


def test_new_records_are_read_from_where_the_last_reading_ended(tmp_path):
    directory = RunDirectory(str(tmp_path))
    assert directory.metrics_from() == ([], BEGINNING)
    directory.append_metrics([round_done(ONE, 5), round_done(ONE, 10)])
    records, offset = directory.metrics_from()
    assert len(records) == 2
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "news", "te')
    assert directory.metrics_from(offset) == ([], offset), "a line that is being written is read later"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('xt": "é", "time": 1}\n')
    (news,), offset = directory.metrics_from(offset)
    assert news.text == "é"
    directory.forget_rounds_after({ONE: 5})
    assert directory.metrics_from(offset)[0] == [round_done(ONE, 5), news], "the file became shorter: read anew"


def test_settings_that_a_resume_changed_are_kept_and_repeated_by_manifests(copied_run):
    directory = copied_run("checkpoint.every_steps=6")
    directory.add_changes(["classifier.learning_rate=0.01"], {"block-01": 6, "classifier": 6})
    change = SettingChange("classifier.learning_rate=0.01", {"block-01": 6, "classifier": 6})
    assert directory.changes() == [change]
    assert directory.config().classifier.learning_rate == 0.01
    writer = CheckpointWriter(directory.checkpoints, [ONE], T, (20,), 9, directory.changes())
    writer.add(snapshot_at(20))
    assert directory.checkpoints.manifest(20).changes == (change,)
    assert directory.checkpoints.manifest(12).changes == ()


@pytest.mark.parametrize("stage", [block(2), CLASSIFIER, EMBEDDING, NETWORK], ids=lambda stage: stage.name)
def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path, stage):
    """Files written before 2026-11-26 give a stage's number alone; their names tell what it is."""
    directory = RunDirectory(str(tmp_path))
    expected = snapshot_at(5, stage)
    CheckpointWriter(directory.checkpoints, [stage], T, (5,), 2).add(expected)
    folder, name = tmp_path / "checkpoints/step-00000005", stage.file(T)
    entry = json.loads((folder / f"{name}.json").read_text())
    assert (entry["stage"], entry["kind"], entry["index"]) == (stage.number(T), stage.kind, stage.index)
    files = {file: without_kind(folder / file) for file in entry["files"]}
    old = {"name": name, "stage": entry["stage"], "step": 5, "sha256": entry["sha256"], "files": files}
    (folder / f"{name}.json").write_text(json.dumps(old))
    (folder / "manifest.json").write_text(json.dumps({"format": 2, "step": 5, "stages": [old], "software": {}}))
    assert directory.checkpoints.entry(5, name).stage == stage
    assert directory.checkpoints.manifest().stages[0].stage == stage
    (snapshot,) = directory.checkpoints.load_all().values()
    assert (snapshot.stage, snapshot.fingerprint()) == (stage, expected.fingerprint())


def without_kind(file):
    """Leave kind and index out of the header of a safetensors file; returns its new checksum."""
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    del header["__metadata__"]["kind"], header["__metadata__"]["index"]
    new = json.dumps(header).encode()
    file.write_bytes(len(new).to_bytes(8, "little") + new + content[end:])
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_entry_of_an_unknown_kind_of_stage_is_refused(tmp_path):
    directory = RunDirectory(str(tmp_path))
    CheckpointWriter(directory.checkpoints, [ONE], T, (5,), 2).add(snapshot_at(5))
    manifest = tmp_path / "checkpoints/step-00000005/manifest.json"
    manifest.write_text(manifest.read_text().replace('"kind": "block"', '"kind": "adapter"'))
    with pytest.raises(UserError, match="manifest.json of step 5 cannot be read: it says that it is of adapter"):
        directory.checkpoints.manifest()


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


def test_an_unknown_kind_of_storage_is_refused():
    with pytest.raises(UserError, match="nosuch://x: is no path or URI"):
        Store("nosuch://x")


def test_nothing_half_written_is_left_behind(tmp_path):
    store = Store(str(tmp_path))
    store.write("a", b"old")
    store.write("a", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_an_entry_that_is_cut_short_meanwhile_does_not_end_a_live_run(tmp_path):
    directory = RunDirectory(str(tmp_path))
    writer = CheckpointWriter(directory.checkpoints, [ONE, CLASSIFIER], T, (5, 10), 2)
    writer.add(snapshot_at(5))
    (tmp_path / "checkpoints/step-00000005/block-01.json").write_text('{"name": "bl')
    assert writer.add(snapshot_at(5, CLASSIFIER))
    assert directory.checkpoints.load_all()[ONE].fingerprint() == snapshot_at(5).fingerprint()


def test_a_damaged_entry_costs_its_own_checkpoint_and_no_other(tmp_path):
    directory = RunDirectory(str(tmp_path))
    writer = CheckpointWriter(directory.checkpoints, [ONE, CLASSIFIER], T, (5, 10, 15), 2)
    for step in (5, 10):
        writer.add(snapshot_at(step))
    (tmp_path / "checkpoints/step-00000005/block-01.json").write_text('{"name": "bl')
    again = CheckpointWriter(directory.checkpoints, [ONE, CLASSIFIER], T, (5, 10, 15), 2)
    snapshots, warnings = again.take_over()
    assert snapshots[ONE].step == 10
    assert "block-01.json of step 5 cannot be read" in warnings[0]
    assert [again.add(snapshot_at(step, CLASSIFIER)) for step in (5, 10)] == [False, True]


def test_a_manifest_and_an_entry_that_are_both_damaged_do_not_block_a_resume(tmp_path):
    directory = RunDirectory(str(tmp_path))
    writer = CheckpointWriter(directory.checkpoints, [ONE], T, (5, 10), 2)
    for step in (5, 10):
        writer.add(snapshot_at(step))
    for name in ("manifest.json", "block-01.json"):
        (tmp_path / "checkpoints/step-00000005" / name).write_text("{")
    snapshots, warnings = CheckpointWriter(directory.checkpoints, [ONE], T, (5, 10), 2).take_over()
    assert snapshots[ONE].step == 10
    assert "nor be written anew" in warnings[0]


def written(tmp_path, steps, stages=(ONE, CLASSIFIER), **options):
    """The directory of a run with checkpoints at these steps, and what goes on with it."""
    directory = RunDirectory(str(tmp_path))

    def writer():
        return CheckpointWriter(directory.checkpoints, stages, T, steps, 9, **options)

    first = writer()
    for step in steps:
        for stage in stages:
            first.add(snapshot_at(step, stage))
    return writer()


def test_a_damaged_entry_costs_nothing_where_the_manifest_of_its_step_is_whole(tmp_path):
    again = written(tmp_path, (5, 10))
    (tmp_path / "checkpoints/step-00000010/block-01.json").write_text("{")
    snapshots, warnings = again.take_over()
    assert snapshots[ONE].step == 10
    assert "block-01.json of step 10 cannot be read" in warnings[0]
    assert "what the manifest says of it is used" in warnings[0]


def test_files_that_a_process_left_when_it_died_while_deleting_them_are_deleted_by_the_next(tmp_path):
    again = written(tmp_path, (5, 10))
    left = tmp_path / "checkpoints/step-00000003"
    left.mkdir()
    (left / "block-01.safetensors").write_bytes(b"")
    again.take_over()
    assert sorted(each.name for each in left.parent.iterdir()) == ["step-00000005", "step-00000010"]


def test_stages_that_share_w_embed_begin_anew_together_where_one_has_no_whole_snapshot_left(tmp_path):
    again = written(tmp_path, (5, 10), together_at=(5, 10))
    for file in tmp_path.rglob("block-01.safetensors"):
        file.write_bytes(b"")
    snapshots, warnings = again.take_over()
    assert snapshots == {}, "the classifier would wait for ever for a block that begins anew"
    assert "block 1 has no whole snapshot left" in warnings[-1]
    assert "all stages begin anew" in warnings[-1]
    assert again.complete_steps == ()


def test_stages_that_share_w_embed_begin_anew_with_no_word_where_none_has_a_snapshot(tmp_path):
    assert written(tmp_path, (), together_at=(5, 10)).take_over() == ({}, [])


def folders(path):
    return sorted(int(folder.name.removeprefix("step-")) for folder in (path / "checkpoints").iterdir())


@pytest.mark.parametrize("num_to_keep", [1, 2, 5])
def test_snapshots_of_a_stage_that_runs_ahead_are_bounded_and_it_is_said_what_is_lost(tmp_path, num_to_keep):
    directory, steps = RunDirectory(str(tmp_path)), tuple(range(5, 1005, 5))
    stages = [ONE, block(2), CLASSIFIER]
    writer = CheckpointWriter(directory.checkpoints, stages, T, steps, num_to_keep)
    most = 0
    for stage in (ONE, block(2)):
        for step in steps:
            writer.add(snapshot_at(step, stage))
            most = max(most, len(folders(tmp_path)))
            assert {step - 5, step} - {0} <= set(directory.checkpoints.saved_steps()[stage.file(T)])
    assert most <= 2 * (WAITING_KEPT + num_to_keep + 2)
    news = writer.news()
    assert "block 1 is" in news[0]
    assert "only one in 2, and a few of the first, will be whole" in news[0]
    assert writer.news() == ()
    whole = []
    for step in steps:
        whole += [step] if writer.add(snapshot_at(step, CLASSIFIER)) else []
        writer.prune(up_to=step)
        assert len(folders(tmp_path)) <= 2 * (WAITING_KEPT + num_to_keep + 2)
    assert whole[-num_to_keep:] == list(steps[-num_to_keep:]), "what num_to_keep promises"
    assert len(whole) > num_to_keep + 2, "and some on the way"
    assert whole[:3] == [5, 10, 20], "the first of them early, however far ahead the others are"
    assert directory.checkpoints.steps() == list(steps[-num_to_keep:])


def test_stages_that_stay_together_lose_no_checkpoint(tmp_path):
    steps = tuple(range(5, 205, 5))
    writer = CheckpointWriter(RunDirectory(str(tmp_path)).checkpoints, [ONE, CLASSIFIER], T, steps, num_to_keep=2)
    ahead = 6
    whole = 0
    for number, step in enumerate(steps):
        writer.add(snapshot_at(step))
        if number >= ahead:
            whole += writer.add(snapshot_at(steps[number - ahead], CLASSIFIER))
    assert whole == len(steps) - ahead
    assert writer.news() == ()


def test_a_run_directory_that_is_deleted_is_not_half_made_anew(copied_run):
    directory = copied_run("checkpoint.every_steps=6")
    path = Path(str(directory))
    directory.must_stay()
    shutil.move(path, path.with_name("away"))
    for write in (
        lambda: directory.append_metrics([MEASURED]),
        lambda: directory.checkpoints.save(snapshot_at(18), T, {}),
        lambda: directory.write_file("report.html", b""),
    ):
        with pytest.raises(OSError, match=r"config.yaml is gone: the directory was deleted"):
            write()
    assert not path.exists()
    shutil.move(path.with_name("away"), path)
    directory.append_metrics([MEASURED])


def test_a_run_that_began_where_a_live_one_was_deleted_is_not_written_into(copied_run):
    directory = copied_run()
    path = Path(str(directory))
    with directory.only_writer():
        directory.must_stay()
        shutil.copytree(path, path.with_name("new"))
        shutil.rmtree(path)
        shutil.move(path.with_name("new"), path)
        with RunDirectory(str(path)).only_writer():
            for change in (
                lambda: directory.append_metrics([MEASURED]),
                lambda: directory.checkpoints.delete_step(6),
                lambda: directory.checkpoints.delete_snapshot(12, "classifier"),
            ):
                with pytest.raises(OSError, match="another one began there"):
                    change()


def test_a_run_whose_directory_is_deleted_ends_with_a_sentence(small_config, tmp_path, monkeypatch):
    def delete(progress):
        if progress.stages[0].step == 12:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.raises(TrainingError, match="config.yaml is gone: the directory was deleted"):
        api.train(small_config("engine.kind=sequential"), str(tmp_path / "run"), watcher=api.Watcher(delete))
    assert not (tmp_path / "run").exists()


def test_a_part_of_a_run_is_no_place_for_a_new_one(copied_run):
    directory = copied_run()
    (Path(str(directory)) / "config.yaml").unlink()
    with pytest.raises(UserError, match="holds checkpoints but no config.yaml"):
        directory.check_unused()


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_flock_has_a_lease(tmp_path, monkeypatch, error):
    def no_flock(*_):
        raise OSError(error, "no such locks here")

    monkeypatch.setattr(ThisSystem, "flock", no_flock)
    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.0)
    store = Store(str(tmp_path / "run"))
    with lock.only_writer(store):
        assert b"host" in store.read(lock.LOCK)
    assert not store.exists(lock.LOCK), "a lease is given back"


def test_a_start_that_is_refused_leaves_no_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("new", "mine"):
        with pytest.raises(UserError), RunDirectory(str(tmp_path / name)).only_writer():
            raise UserError("refused")
    assert [folder.name for folder in tmp_path.iterdir()] == ["mine"]
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("wrong", ["metrics.host=192.0.2.1", "metrics.discovery=/proc/no/targets"])
def test_what_the_coordinator_refuses_leaves_no_run_directory(small_config, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(coordinator, "cluster_resources", lambda: Resources(2, 0))
    monkeypatch.setattr(coordinator.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    with pytest.raises(UserError, match=wrong.partition("=")[0]):
        coordinator.Coordinator(small_config("metrics.port=0", wrong), str(tmp_path / "run")).run()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["changes.json", "metrics.jsonl"])
def test_a_run_begins_in_no_folder_that_holds_a_part_of_another(small_config, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text('[{"setting": "blocks.training.1.learning_rate=9", "from_step": {}}]')
    with pytest.raises(UserError, match=f"holds {name} but no config.yaml, so a part of a run"):
        api.train(small_config("engine.kind=sequential"), str(tmp_path / "run"))
    assert [each.name for each in (tmp_path / "run").iterdir()] == [name]


def test_a_tilde_is_the_home_wherever_a_run_directory_is_named(copied_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    copied_run()
    assert RunDirectory("~/run").holds_run
    assert api.merge("~/merged", ["~/run"]).directory == str(tmp_path / "merged")
    with pytest.raises(UserError, match="the home that ~ stands for cannot be found"):
        RunDirectory("~nobody-of-this-name/run")
