"""A disk that is full, files that are damaged, two writers for one directory."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from noprop_dist.engines.ray.snapshot_keeper import SnapshotKeeper

from noprop_dist.engines.sequential import train_sequentially
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.storage import lock
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.storage.store import Store
from noprop_dist.training.run_log import RunLog
from noprop_dist.training.setup import prepare


def fingerprints(directory):
    return [entry["sha256"] for entry in directory.checkpoints.manifest()["stages"]]


def resume(directory):
    setup, data = prepare(directory.config())
    train_sequentially(setup, data, directory, lambda _: None)


@pytest.fixture
def finished(small_run):
    return small_run("checkpoint.every_steps=4")


def test_a_flipped_bit_costs_one_block_its_newest_snapshot_and_no_bit_of_the_result(finished, tmp_path):
    before = fingerprints(finished)
    file = tmp_path / "run/checkpoints/step-00000012/block-02.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (tmp_path / "run/checkpoints/step-00000012/manifest.json").unlink()
    resume(finished)
    assert fingerprints(finished) == before
    news = [record["text"] for record in finished.metrics() if record["kind"] == "news"]
    assert any("block-02.safetensors of step 12 is damaged" in line and "the one before it is used" in line
               for line in news)  # fmt: skip
    for stage in ("block 1", "block 2"):
        rounds = [r for r in finished.metrics() if r["kind"] == "round" and r["stage"] == stage]
        assert sum(record["steps"] for record in rounds) == 12


@pytest.mark.parametrize("damage", [b"", b'{"step": 12, "sta', b'{"step": 4, "stages": []}'])
def test_a_damaged_manifest_is_written_anew_from_the_snapshots_entries(finished, tmp_path, damage):
    before = fingerprints(finished)
    (tmp_path / "run/checkpoints/step-00000012/manifest.json").write_bytes(damage)
    resume(finished)
    assert fingerprints(finished) == before


def test_a_crafted_pickle_with_a_right_checksum_is_not_run(finished, tmp_path):
    import hashlib

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder = tmp_path / "run/checkpoints/step-00000012"
    (folder / "block-01.safetensors").write_bytes(pickle.dumps(Evil()))
    entry = json.loads((folder / "block-01.json").read_text())
    entry["files"]["block-01.safetensors"] = hashlib.sha256(pickle.dumps(Evil())).hexdigest()
    (folder / "block-01.json").write_text(json.dumps(entry))
    (_, snapshot), warnings = finished.checkpoints.newest("block-01", [8, 12])
    assert snapshot.step == 8
    assert "is no snapshot" in warnings[0]
    assert not (tmp_path / "ran").exists()


def snapshot_at(step, stage):
    return Snapshot(stage, step, {"w": np.full(4, step, np.float32)}, {}, "{}")


@pytest.fixture
def keeper(small_setup, tmp_path, monkeypatch):
    """A keeper over a directory whose disk is full while the file `full` is there."""
    setup, _ = small_setup
    directory = RunDirectory(str(tmp_path / "run"))
    log = RunLog(setup, directory, dict.fromkeys(setup.plan.stages, 0))
    (tmp_path / "run").mkdir(exist_ok=True)
    write = Store.write

    def full(store, name, content):
        if (tmp_path / "full").exists():
            raise OSError(28, "No space left on device")
        write(store, name, content)

    monkeypatch.setattr(Store, "write", full)
    return SnapshotKeeper(setup.checkpoint_writer(directory), log, {}, timeout_seconds=2)


def poll_until(keeper, condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        keeper.poll()
        time.sleep(0.01)


def test_while_the_disk_is_full_only_the_newest_snapshots_wait_and_then_they_are_written(keeper, tmp_path):
    (tmp_path / "full").touch()
    for step in (3, 6, 12):
        keeper.add(snapshot_at(step, stage=1))
    poll_until(keeper, lambda: keeper.unsaved(1) == 1)
    assert keeper.latest_step(1) == 12
    (tmp_path / "full").unlink()
    poll_until(keeper, lambda: not keeper.busy)
    assert RunDirectory(str(tmp_path / "run")).checkpoints.saved_steps() == {"block-01": [12]}


def test_a_disk_that_stays_full_ends_the_run_and_says_how_to_go_on(keeper, tmp_path):
    (tmp_path / "full").touch()
    keeper.add(snapshot_at(3, stage=1))
    with pytest.raises(TrainingError, match="could not be written for checkpoint.storage_timeout_seconds=2"):
        poll_until(keeper, lambda: False, seconds=20)


FULL_DISK = """
import os, sys, pathlib
from noprop_dist.storage.store import Store
store = Store(sys.argv[1])
store.append("log", b"kept\\n")
try:
    store.append("log", b"x" * 4_000_000)
except OSError as error:
    assert error.errno == 28, error
else:
    raise SystemExit("the disk was not full")
assert store.read("log") == b"kept\\n", "all or nothing"
try:
    store.write("weights", b"x" * 4_000_000)
except OSError:
    assert not store.exists("weights")
else:
    raise SystemExit("the disk was not full")
"""


def test_on_a_real_full_disk_files_are_whole_or_not_there(tmp_path):
    """A file system of one megabyte, in a mount namespace of its own."""
    mount = f'mkdir -p "$1" && mount -t tmpfs -o size=1m tmpfs "$1" && exec "{sys.executable}" -c "$2" "$1"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*command, "mount -t tmpfs tmpfs /tmp"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system of their own")
    done = subprocess.run([*command, mount, "sh", str(tmp_path / "small"), FULL_DISK], capture_output=True, text=True,
                          timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


HOLD = "import sys, time\nfrom noprop_dist.storage.run_directory import RunDirectory\n" \
       "with RunDirectory(sys.argv[1]).only_writer():\n    print('mine', flush=True)\n    time.sleep(60)\n"  # fmt: skip


def test_a_second_writer_is_refused_and_a_dead_one_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.5)
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "mine\n"
    directory = RunDirectory(str(tmp_path))
    with pytest.raises(UserError, match=f"process {owner.pid} on .* is writing this run"), directory.only_writer():
        pass
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait(timeout=10)
    owner.stdout.close()
    with directory.only_writer():
        pass


def test_a_lease_in_an_object_store_ends_once_its_owner_does_not_renew_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "is_local", False)
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.3)
    store = Store(str(tmp_path))
    with lock.only_writer(store), pytest.raises(UserError, match="is writing this run"), lock.only_writer(store):
        pass
    assert not store.exists(lock.LOCK)
    store.write(lock.LOCK, b'{"host": "gone", "pid": 1}')
    with lock.only_writer(store):
        assert b"gone" not in store.read(lock.LOCK)
