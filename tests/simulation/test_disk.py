"""The simulated disk and object store do what real ones do, and the files on them are whole whatever goes wrong."""

import errno
import fcntl
import os
import random
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from noprop_dist.simulation.bucket import SimulatedBucket
from noprop_dist.simulation.disk import ProcessDisk, SimulatedDisk, Torn
from noprop_dist.storage.local_files import LocalFiles
from noprop_dist.storage.metrics_files import BEGINNING, MetricsFiles
from noprop_dist.storage.object_files import ObjectFiles
from noprop_dist.storage.store import Store

CONTENTS = st.sampled_from([b"", b"1", b"twelve bytes"])
FAULTS = (errno.ENOSPC, errno.EIO, errno.EROFS)


def operations(files, folders, writing=("write", "append")):
    """Lists of operations of `LocalFiles` or `ObjectFiles`, as their names and arguments."""
    name, folder = st.sampled_from(files), st.sampled_from(folders)
    one = st.one_of(
        *(st.tuples(st.just(do), name) for do in ("read", "size", "exists", "delete")),
        st.tuples(st.just("read"), name, st.integers(0, 3)),
        *(st.tuples(st.just(do), name, CONTENTS) for do in writing),
        *(st.tuples(st.just(do), folder) for do in ("names", "delete_folder", "exists")),
    )
    return st.lists(one, max_size=25)


def outcome(files, operation):
    do, *arguments = operation
    try:
        return getattr(files, do)(*arguments)
    except OSError as error:
        return type(error), error.errno


@settings(deadline=None, max_examples=300)
@given(operations(["a", "b", "a/b", "f/a", "f/g/a", "f", "a.partial", "../x"], ["", "a", "f", "f/g", "none"]))
def test_files_on_the_simulated_disk_answer_as_those_on_a_real_one(done):
    process = SimulatedDisk().for_process()
    with tempfile.TemporaryDirectory() as folder:
        root = f"{folder}/deep/run"
        real, simulated = LocalFiles(root), LocalFiles(root, process)
        for operation in done:
            if operation[0] == "size" and Path(root, operation[1]).is_dir():
                continue  # each file system has its own size of a folder
            assert outcome(simulated, operation) == outcome(real, operation), operation
            assert process.descriptors == 0
            assert simulated.file_in_the_way() is real.file_in_the_way() is None


class MakesFolders:
    """A file system as object stores are: a folder is there once something is in it."""

    def __init__(self, files):
        self.files = files

    def open_output_stream(self, path):
        self.files.create_dir(path.rpartition("/")[0], recursive=True)
        return self.files.open_output_stream(path)

    def __getattr__(self, name):
        return getattr(self.files, name)


def is_missing(answer):
    """What object stores and a local disk tell alike of an error: whether it is that something is missing."""
    return answer[0] is FileNotFoundError if isinstance(answer, tuple) else answer


@settings(deadline=None, max_examples=200)
@given(operations(["a", "b", "f/a", "f/g/a", "f"], ["f", "f/g", "none"], ["write"]))
def test_files_in_the_simulated_bucket_answer_as_those_of_pyarrow(done):
    simulated = ObjectFiles(SimulatedBucket().for_process(), "bucket/run")
    with tempfile.TemporaryDirectory() as folder:
        real = ObjectFiles(MakesFolders(fs.SubTreeFileSystem(folder, fs.LocalFileSystem())), "bucket/run")
        for operation in done:
            if operation[0] in ("write", "delete") and operation[1] == "f":
                continue  # an object store has a folder and an object of one name
            if operation[0] == "read" and outcome(simulated, ("size", operation[1])) in (0, 1) and operation[2:]:
                continue  # pyarrow's local files do not say that an offset is beyond the end
            assert is_missing(outcome(simulated, operation)) == is_missing(outcome(real, operation)), operation


def on(disk, hook=lambda operation, path: None):
    """Files of a new process on a disk."""
    return LocalFiles("/runs/one", disk.for_process(hook))


def failing(number, at, torn=None):
    """A hook that lets the operation of that number fail, or tears it where it is a write."""
    done = iter(range(10**9))

    def hook(operation, path):
        if next(done) == at:
            error = OSError(number, os.strerror(number))
            raise Torn(torn, error) if torn is not None and operation == "write" else error

    return hook


@settings(deadline=None)
@given(st.sampled_from(FAULTS), st.integers(0, 15), st.none() | st.integers(0, 4), st.sampled_from(["write", "append"]))
def test_an_operation_that_fails_leaves_the_file_as_it_was_and_one_that_does_not_is_whole(number, at, torn, do):
    disk = SimulatedDisk()
    on(disk).write("folder/file", b"before")
    files = on(disk, failing(number, at, torn))
    failed = outcome(files, (do, "folder/file", b"after"))
    assert failed in (None, (OSError, number))
    expected = {"write": b"after", "append": b"beforeafter"}[do] if failed is None else b"before"
    assert on(disk).read("folder/file") == expected
    assert on(disk).names("folder") == ["file"]
    assert files.system.descriptors == 0


def spell(first, operations, torn):
    """A hook that fails so many operations from one on; the first of them takes effect where nobody hears of it."""
    done = iter(range(10**9))

    def hook(operation, path):
        number = next(done)
        if first <= number < first + operations:
            error = OSError("the server does not answer")
            lost = operation in ("write", "put", "delete")
            raise Torn(torn, error) if number == first and lost else error

    return hook


@pytest.mark.parametrize("place", ["disk", "bucket"])
@settings(deadline=None, max_examples=300)
@given(st.integers(0, 12), st.integers(1, 4), st.integers(0, 5))
def test_what_is_appended_again_after_an_error_is_there_once(place, first, operations, torn):
    common = SimulatedDisk() if place == "disk" else SimulatedBucket()

    def files(hook=lambda operation, path: None):
        process = common.for_process(hook)
        opened = LocalFiles("/run", process) if place == "disk" else ObjectFiles(process, "bucket/run")
        return MetricsFiles(Store("/run", opened))

    failing = files(spell(first, operations, torn))
    expected = b""
    for line in (b"one\n", b"two\n", b"three\n"):
        expected += line
        for _ in range(10):
            if outcome(failing, ("append", line)) is None:
                break
    assert b"".join(content for _, content in files().contents()) == expected == files().since(BEGINNING)[0]


@settings(deadline=None)
@given(st.integers(0, 12), st.lists(st.tuples(st.sampled_from(["write", "append"]), CONTENTS), max_size=8))
def test_on_a_full_disk_files_are_whole_or_as_before(capacity, done):
    disk, expected = SimulatedDisk(capacity=capacity), None
    files = on(disk)
    for do, content in done:
        failed = outcome(files, (do, "file", content))
        assert failed in (None, (OSError, errno.ENOSPC))
        if failed is None:
            expected = (expected or b"") + content if do == "append" else content
        left = on(disk).read("file") if on(disk).exists("file") else None
        assert (left or None) == (expected or None)
        assert disk.used == len(left or b"")


class Died(BaseException):
    """The end of a process."""


@pytest.mark.parametrize("lost", [False, True])
def test_a_process_that_dies_at_a_request_leaves_an_object_whole(lost):
    outcomes = set()
    for at in range(3):
        bucket, left = SimulatedBucket(), iter(range(at))
        one = ObjectFiles(bucket.for_process(), "bucket/run")
        one.write("f/file", b"before")

        def hook(request, path, left=left):
            if next(left, None) is None:
                raise Torn(0, Died()) if lost else Died

        with suppress(Died):
            ObjectFiles(bucket.for_process(hook), "bucket/run").write("f/file", b"after")
        outcomes.add(one.read("f/file"))
        assert one.names("f") == ["file"]
    assert outcomes == ({b"after"} if lost else {b"before", b"after"})


@pytest.mark.parametrize("do", ["write", "append"])
def test_a_process_that_dies_while_it_writes_leaves_a_file_that_the_next_one_can_write(do):
    outcomes = set()
    for at in range(40):
        disk, left = SimulatedDisk(), iter(range(at))
        on(disk).write("folder/file", b"before")

        def hook(operation, path, left=left):
            if next(left, None) is None:
                raise Torn(3, Died()) if operation == "write" else Died

        files = on(disk, hook)
        try:
            getattr(files, do)("folder/file", b"after")
        except Died:
            files.system.close_all()
        outcomes.add(on(disk).read("folder/file"))
        on(disk).write("folder/file", b"new")
        assert on(disk).names("folder") == ["file"]
        assert disk.used == 3
    torn = {b"beforeaft"} if do == "append" else set()
    assert outcomes == {b"before", {"write": b"after", "append": b"beforeafter"}[do], *torn}


class Unsynced(ProcessDisk):
    def fsync(self, fd):
        """Say that it was done, as some disks do."""


@settings(deadline=None, max_examples=300)
@given(st.randoms(use_true_random=False), operations(["a", "f/a", "f/g/a"], ["f", "none"]))
def test_the_loss_of_power_takes_what_was_written_lately_and_nothing_else(luck, done):
    now = [0.0]
    disk = SimulatedDisk(lambda: now[0])
    files = LocalFiles("/runs/one", Unsynced(disk, lambda operation, path: None))
    files.write("old", b"old")
    files.write("f/a", b"older")
    files.append("log", b"kept")
    now[0] = 50.0
    for operation in done:
        outcome(files, operation)
    files.append("log", b"lost")
    disk.lose_power(luck, since=40.0)
    again = on(disk)
    assert again.read("old") == b"old"
    assert again.read("log").startswith(b"kept")
    assert len(again.read("log")) <= 8
    assert disk.used == sum(again.size(name) for name in all_names(again, ""))
    again.delete_folder("")
    assert disk.used == 0


def all_names(files, folder):
    for name in files.names(folder):
        path = f"{folder}/{name}" if folder else name
        yield path
        yield from all_names(files, path)


def test_what_the_loss_of_power_makes_of_a_file_that_is_not_synced_is_any_of_five_things():
    seen = set()
    for seed in range(60):
        now = [0.0]
        disk = SimulatedDisk(lambda now=now: now[0])
        on(disk).write("file", b"old")
        now[0] = 50.0
        LocalFiles("/runs/one", Unsynced(disk, lambda operation, path: None)).write("file", b"new!")
        disk.lose_power(random.Random(seed), since=40.0)
        seen.add(on(disk).read("file"))
        on(disk).write("file", b"")
        assert on(disk).names("") == ["file"]
    assert seen == {b"old", b"new!", b"", bytes(4), b"n", b"ne", b"new"}


@pytest.mark.parametrize("seed", range(20))
def test_the_loss_of_power_takes_nothing_that_was_appended_and_no_part_of_what_was_written(seed):
    disk = SimulatedDisk()
    on(disk).write("file", b"old")
    for line in (b"one\n", b"two\n"):
        on(disk).append("log", line)
    on(disk).write("file", b"new")
    disk.lose_power(random.Random(seed), since=0.0)
    assert on(disk).read("log") == b"one\ntwo\n"
    assert not on(disk).exists("file") or on(disk).read("file") in (b"old", b"new")


def test_a_lock_is_one_processs_until_that_ends():
    disk = SimulatedDisk()
    on(disk).write("file", b"")
    first, second = on(disk), on(disk)
    exclusive = fcntl.LOCK_EX | fcntl.LOCK_NB
    first.system.flock(first.open("file", os.O_RDWR), exclusive)
    other = second.open("file", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        second.system.flock(other, exclusive)
    first.system.close_all()
    second.system.flock(other, exclusive)


def test_a_listing_of_a_bucket_may_be_old_and_an_object_never_is():
    now = [0.0]
    bucket = SimulatedBucket(lambda: now[0])
    files = ObjectFiles(bucket.for_process(), "bucket/run")
    files.write("f/old", b"1")
    now[0], bucket.stale_seconds = 10.0, 5.0
    files.write("f/new", b"2")
    files.delete("f/old")
    assert files.names("f") == ["old"]
    assert files.read("f/new") == b"2"
    assert not files.exists("f/old")
    now[0] = 16.0
    assert files.names("f") == ["new"]
