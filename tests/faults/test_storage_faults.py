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
from run_facts import fingerprints, records_of, steps_written

from noprop_dist.api import resume
from noprop_dist.engines.core.commands import WriteSnapshot
from noprop_dist.engines.core.events import StorageDone, StorageFailed
from noprop_dist.engines.storage_thread import StorageThread
from noprop_dist.errors import UserError
from noprop_dist.records import News
from noprop_dist.stages import block
from noprop_dist.storage import lock
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.storage.store import Store
from noprop_dist.training.run_log import RunLog


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
    resume(str(finished))
    assert fingerprints(finished) == before
    (warning,) = [each.text for each in records_of(finished, News)]
    assert "block-02.safetensors of step 12 is damaged" in warning
    assert "the one before it is used" in warning
    assert set(steps_written(finished).values()) == {12}, "nothing is counted twice"


@pytest.mark.parametrize("damage", [b"", b'{"step": 12, "sta', b'{"step": 4, "stages": []}'])
def test_a_damaged_manifest_is_written_anew_from_the_snapshots_entries(finished, tmp_path, damage):
    before = fingerprints(finished)
    (tmp_path / "run/checkpoints/step-00000012/manifest.json").write_bytes(damage)
    resume(str(finished))
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


@pytest.fixture
def storage(small_setup, tmp_path, monkeypatch):
    """What writes in a run directory whose disk is full while the file `full` is there, and the log of that run."""
    setup, _ = small_setup
    directory = RunDirectory(str(tmp_path / "run"))
    directory.create(setup.config, setup.plan.facts)
    log = RunLog(directory, dict.fromkeys(setup.plan.stages, 0))
    write, append = Store.write, Store.append

    def unless_full(store, do, *arguments):
        if (tmp_path / "full").exists():
            raise OSError(28, "No space left on device")
        do(store, *arguments)

    monkeypatch.setattr(Store, "write", lambda store, *arguments: unless_full(store, write, *arguments))
    monkeypatch.setattr(Store, "append", lambda store, *arguments: unless_full(store, append, *arguments))
    thread = StorageThread(setup.checkpoint_writer(directory), log, directory)
    return thread, log


def outcome_of(thread, task):
    thread.begin(task)
    deadline = time.monotonic() + 10
    while not (events := thread.events()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return events[0]


def test_what_a_full_disk_refuses_is_told_and_can_be_written_later(storage, tmp_path):
    thread, log = storage
    log.add(News(text="steps that lead to the snapshot"))
    snapshot = WriteSnapshot(Snapshot(block(1), 12, {"w": np.full(4, 12, np.float32)}, {}, "{}"))
    (tmp_path / "full").touch()
    assert outcome_of(thread, snapshot) == StorageFailed("[Errno 28] No space left on device")
    assert RunDirectory(str(tmp_path / "run")).checkpoints.saved_steps() == {}
    (tmp_path / "full").unlink()
    assert isinstance(outcome_of(thread, snapshot), StorageDone)
    assert RunDirectory(str(tmp_path / "run")).checkpoints.saved_steps() == {"block-01": [12]}
    (written,) = records_of(tmp_path / "run", News)
    assert written.text == "steps that lead to the snapshot", "once, though it was tried twice"
    thread.close(timeout_seconds=10)


def test_a_run_that_ends_on_a_full_disk_ends(storage, tmp_path):
    thread, log = storage
    (tmp_path / "full").touch()
    log.add(News(text="it will not be written"))
    thread.close(timeout_seconds=10)


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


@pytest.mark.slow
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


@pytest.mark.slow
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
