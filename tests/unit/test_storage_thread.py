"""Storage tasks: in their order, and in an object store the snapshots of several stages at the same time."""

import threading
import time

import numpy as np
import pytest
from pyarrow import fs

from noprop_dist.engines.core.commands import FlushLog, UseStorage, WriteSnapshot
from noprop_dist.engines.core.events import StorageDone, StorageFailed
from noprop_dist.engines.core.snapshots import SNAPSHOTS_AT_ONCE, Snapshots
from noprop_dist.engines.storage_thread import StorageThread
from noprop_dist.records import News
from noprop_dist.stages import block
from noprop_dist.storage.checkpoint_writer import CheckpointWriter
from noprop_dist.storage.object_files import ObjectFiles
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.storage.store import Store
from noprop_dist.training.run_log import RunLog

STAGES = [block(t) for t in range(1, SNAPSHOTS_AT_ONCE + 1)]


def snapshot_of(stage, step=5):
    return Snapshot(stage, step, {"w": np.zeros(3, np.float32)}, {"s": np.zeros(1, np.float32)}, "{}")


class Together:
    """Object storage that answers the writing of weights once those of all stages are being written."""

    def __init__(self, folder):
        self.files, self.written, self.fails = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()), [], ""
        self.barrier = threading.Barrier(2 * len(STAGES), timeout=20)

    def open_output_stream(self, path):
        if path.endswith(".safetensors"):
            self.barrier.wait()
        if self.fails and self.fails in path:
            raise OSError("made to fail")
        self.written.append(path.rpartition("/")[2])
        self.files.create_dir(path.rpartition("/")[0], recursive=True)
        return self.files.open_output_stream(path)

    def __getattr__(self, name):
        return getattr(self.files, name)


@pytest.fixture
def store(tmp_path):
    return Together(tmp_path)


@pytest.fixture
def storage(store):
    directory = RunDirectory(Store("s3://bucket/run", ObjectFiles(store, "bucket/run")))
    writer = CheckpointWriter(directory.checkpoints, STAGES, len(STAGES), (5,), 2)
    thread = StorageThread(writer, RunLog(directory, {}), directory)
    yield thread
    thread.close(10)


def all_events(thread, count):
    events, until = [], time.monotonic() + 30
    while len(events) < count:
        assert time.monotonic() < until
        events += thread.events()
    return events


def test_snapshots_of_several_stages_are_written_at_once_their_records_first_and_the_manifest_last(store, storage):
    storage.log(News(text="before"))
    for stage in STAGES:
        storage.begin(WriteSnapshot(snapshot_of(stage)))
    events = all_events(storage, len(STAGES))
    assert [each.checkpoint_complete for each in events] == [False, False, False, True]
    assert (store.written[0], store.written[-1]) == ("000001.jsonl", "manifest.json")
    for stage in STAGES:
        files = [name for name in store.written if name.startswith(stage.file(4))]
        assert files[-1] == f"{stage.file(4)}.json", "the entry comes after both files"
        assert len(files) == 3


def test_after_a_snapshot_that_cannot_be_written_those_behind_it_are_not_told_and_may_be_written_again(store, storage):
    store.fails = "block-02.json"
    for stage in STAGES:
        storage.begin(WriteSnapshot(snapshot_of(stage)))
    first, second = all_events(storage, 2)
    assert isinstance(first, StorageDone)
    assert isinstance(second, StorageFailed)
    assert storage.events() == []
    store.fails, store.barrier = "", threading.Barrier(2 * len(STAGES) - 2, timeout=20)
    for stage in STAGES[1:]:
        storage.begin(WriteSnapshot(snapshot_of(stage)))
    assert [each.checkpoint_complete for each in all_events(storage, 3)] == [False, False, True]


def test_who_waits_for_the_storage_is_called_once_a_task_is_done(tmp_path):
    directory, heard, called = RunDirectory(str(tmp_path)), [], threading.Event()

    def done():
        heard.extend(thread.events())
        called.set()

    writer = CheckpointWriter(directory.checkpoints, STAGES, len(STAGES), (5,), 2)
    thread = StorageThread(writer, RunLog(directory, {}), directory, task_done=done)
    thread.begin(FlushLog())
    assert called.wait(20)
    thread.close(10)
    assert [type(each) for each in heard] == [StorageDone]


def under_way(outbox):
    tasks = [each.task for each in outbox if isinstance(each, UseStorage)]
    outbox.clear()
    return [each.snapshot.stage.index if isinstance(each, WriteSnapshot) else each for each in tasks]


def test_the_core_asks_for_several_snapshots_at_once_but_not_for_two_of_a_stage_nor_for_other_tasks_beside_them():
    outbox = []
    snapshots = Snapshots(outbox, {}, 0.0)
    for t, step in ((1, 5), (2, 5), (1, 10), (3, 5), (4, 5), (5, 5), (6, 5)):
        snapshots.add(snapshot_of(block(t), step))
    snapshots.flush()
    done = StorageDone(0.1, False, ())
    snapshots.advance(0.0)
    assert under_way(outbox) == [1, 2]
    snapshots.done(done, 0.0)
    snapshots.advance(0.0)
    assert under_way(outbox) == [1, 3, 4], "four at once"
    snapshots.failed(1.0)
    snapshots.advance(1.1)
    assert under_way(outbox) == []
    assert [snapshots.unwritten(block(t)) for t in range(1, 7)] == [1] * 6, "nothing is lost"
    snapshots.advance(9.0)
    assert under_way(outbox) == [2, 1, 3, 4], "all that failed are asked for again"
    for _ in range(4):
        snapshots.done(done, 9.0)
    snapshots.advance(9.0)
    assert under_way(outbox) == [5, 6], "the log is not written beside them"
    snapshots.done(done, 9.0)
    snapshots.done(done, 9.0)
    assert snapshots.under_way_since is None
    snapshots.advance(9.0)
    assert under_way(outbox) == [FlushLog()]


def written_by(every, checkpoints, stages=2, steps=200):
    """Steps that stages write, of a run with a snapshot at each step, to a store that takes a while for each."""
    outbox, written = [], {block(t): [] for t in range(1, stages + 1)}
    snapshots = Snapshots(outbox, {}, 0.0, None, checkpoints, all_wanted=False)
    for now in range(1, steps + 1):
        for stage in written:
            if now % 3 or stage == block(1):
                snapshots.add(snapshot_of(stage, now))
            assert snapshots.holding_up(stage) == 0, "no stage waits"
            assert snapshots.unwritten(stage) <= 3, "memory is bounded"
        snapshots.advance(float(now))
        if now % every == 0 and snapshots.under_way_since is not None:
            task = snapshots._tasks[0]
            written[task.snapshot.stage].append(task.snapshot.step)
            snapshots.done(StorageDone(0.1, False, ()), float(now))
    while snapshots.busy:
        snapshots.advance(1e6)
        task = snapshots._tasks[0]
        written[task.snapshot.stage].append(task.snapshot.step)
        snapshots.done(StorageDone(0.1, False, ()), 1e6)
    return written


@pytest.mark.parametrize(("every", "spacing"), [(1, 8), (2, 8), (5, 16), (12, 32)])
def test_a_slow_store_gets_the_same_checkpoints_of_all_stages_and_the_newest_snapshot_of_each(every, spacing):
    checkpoints = range(2, 201, 2)
    written = written_by(every, checkpoints)
    for stage, steps in written.items():
        assert steps == sorted(set(steps))
        assert steps[-1] == (200 if stage == block(1) else 200 - (200 % 3 == 0))
    common = set.intersection(*map(set, written.values()))
    wanted = {step for step in checkpoints[spacing - 1 :: spacing] if step % 3}  # the second stage has not the others
    assert wanted <= common, (sorted(wanted), sorted(common))


def test_where_all_are_wanted_none_is_left_out_and_the_stage_waits():
    snapshots = Snapshots([], {}, 0.0, None, [1, 2, 3, 4])
    for step in range(1, 5):
        snapshots.add(snapshot_of(block(1), step))
    assert snapshots.holding_up(block(1)) == snapshots.unwritten(block(1)) == 4
