"""Two processes, one run directory: one of them writes it, whatever is late, paused or dies."""

import errno
import json
from functools import partial

import pytest

from noprop_dist.errors import UserError
from noprop_dist.records import News
from noprop_dist.simulation.bucket import SimulatedBucket
from noprop_dist.simulation.disk import SimulatedDisk
from noprop_dist.storage import lock
from noprop_dist.storage.local_files import LocalFiles
from noprop_dist.storage.object_files import ObjectFiles
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import StorageError, Store


class Ended(BaseException):
    """A process has ended."""


class Clock:
    """The time that all processes have in common; whoever sleeps lets the others' threads do what is due."""

    def __init__(self):
        self.now, self.threads = 1000.0, []

    def sleep(self, seconds):
        until = self.now + seconds
        while due := [each for each in self.threads if each[0] <= until and not each[2].paused]:
            thread = min(due, key=lambda each: each[0])
            self.now = max(self.now, thread[0])
            thread[0] = self.now + thread[1]
            try:
                thread[3]()
            except Ended:
                self.threads = [each for each in self.threads if each[2] is not thread[2]]
        self.now = max(self.now, until)


class AtOnce:
    """A thread that others never see at work."""

    def submit(self, do, *arguments):
        do(*arguments)
        return self

    def result(self, seconds):
        """It is done."""

    def shutdown(self, wait):
        """It is done."""


class Process:
    """A `Machine`, and what it has written, on a disk or a bucket that others see, too."""

    def __init__(self, clock, common, pid):
        self.clock, self.pid, self.paused, self.ended = clock, pid, False, False
        self.before = {}
        files = common.for_process(self.hook)
        local = isinstance(common, SimulatedDisk)
        self.files = LocalFiles("/runs/one", files) if local else ObjectFiles(files, "runs/one")
        self.store = Store("/runs/one" if local else "s3://runs/one", self.files, self)
        self.directory = RunDirectory(self.store)

    def hook(self, operation, path):
        if self.ended:
            raise Ended
        if do := self.before.pop((operation, path.rpartition("/")[2]), None):
            do()

    def time(self):
        return self.clock.now

    monotonic = time

    def sleep(self, seconds):
        self.clock.sleep(seconds)

    def owner(self):
        return json.dumps({"host": "node", "pid": self.pid}).encode()

    def thread(self, name):
        return AtOnce()

    def every(self, seconds, do, name):
        thread = [self.clock.now + seconds, seconds, self, do]
        self.clock.threads.append(thread)
        return lambda: self.clock.threads.remove(thread) if thread in self.clock.threads else None

    def end_process(self):
        self.ended = True
        raise Ended

    def kill(self):
        """What the kernel does: no `finally` of the process has any effect."""
        self.ended = True
        self.clock.threads = [each for each in self.clock.threads if each[2] is not self]
        if isinstance(self.files, LocalFiles):
            self.files.system.close_all()


@pytest.fixture
def process_on():
    """Makes processes that have the time and something else in common; in the end all have ended in peace."""
    clock, made = Clock(), []

    def make(common, pid):
        made.append(Process(clock, common, pid))
        return made[-1]

    yield make
    for process in made:
        process.ended = False


@pytest.fixture(params=[SimulatedDisk, SimulatedBucket])
def processes(request, process_on):
    """Makes processes with a disk, or an object store, in common."""
    return partial(process_on, request.param())


@pytest.fixture
def clients(process_on):
    """Makes processes with an object store in common."""
    return partial(process_on, SimulatedBucket())


def entered(process):
    """Let a process begin to write; returns what lets it end."""
    process.writing = process.directory.only_writer()
    process.writing.__enter__()
    return lambda: process.writing.__exit__(None, None, None)


@pytest.fixture
def begun(small_setup):
    """Lets a process begin a run."""
    setup, _ = small_setup

    def begin(process):
        leave = entered(process)
        process.directory.create(setup.config, setup.plan.facts)
        process.directory.must_stay()
        return leave

    return begin


def test_a_second_writer_is_refused_until_the_first_has_ended(processes):
    first, second, third = map(processes, (1, 2, 3))
    leave = entered(first)
    with pytest.raises(UserError, match="process 1 on node is writing this run"):
        entered(second)
    leave()
    entered(second)()
    entered(third)()


def test_a_dead_writer_keeps_nothing(processes):
    first, second = map(processes, (1, 2))
    entered(first)
    first.kill()
    began = first.clock.now
    entered(second)
    assert first.clock.now - began < lock.LEASE_SECONDS + 2
    second.clock.sleep(100)
    assert not second.ended


def test_a_lease_is_kept_while_its_owner_lives(clients):
    first, second = map(clients, (1, 2))
    leave = entered(first)
    for _ in range(20):
        first.clock.sleep(17)
        with pytest.raises(UserError, match="is writing this run"):
            entered(second)
    leave()
    assert not first.store.exists(lock.LOCK)


def test_of_two_that_begin_at_the_same_moment_in_an_object_store_one_is_refused(clients):
    """Both have seen that nobody writes; the other one's lock is written a moment later."""
    first, second = map(clients, (1, 2))
    written_later = [first.clock.now + 0.3, 1e9, second, lambda: second.store.write(lock.LOCK, second.owner())]
    first.clock.threads.append(written_later)
    with pytest.raises(UserError, match="process 2 on node is writing this run"):
        entered(first)
    assert first.store.read(lock.LOCK) == second.owner(), "it is the other one's"


def test_a_writer_whose_lease_another_one_took_writes_and_deletes_nothing_more(clients, begun):
    first, second = map(clients, (1, 2))
    begun(first)
    first.paused = True
    entered(second)
    second.directory.write_file("checkpoints/step-00000005/file", b"of the second")
    for late in (
        lambda: first.directory.append_metrics([News(text="late")]),
        lambda: first.directory.checkpoints.delete_step(5),
        lambda: first.directory.checkpoints.delete_manifest(5),
    ):
        with pytest.raises(StorageError, match=r"run\.lock is not this run's any more: another one began there"):
            late()
    assert second.store.names("checkpoints/step-00000005") == ["file"]
    first.paused = False
    second.clock.sleep(lock.RENEW_SECONDS)
    assert first.ended
    second.clock.sleep(100)
    assert not second.ended


def test_a_writer_whose_lease_was_taken_before_it_has_looked_does_not_take_it_for_its_own(clients, begun):
    first, second = map(clients, (1, 2))
    begun(first)
    first.paused = True
    begun_again = entered(second)
    first.directory.must_stay()
    with pytest.raises(StorageError, match="another one began there"):
        first.directory.append_metrics([News(text="late")])
    second.directory.must_stay()
    second.directory.append_metrics([News(text="in time")])
    begun_again()


def test_a_writer_that_ends_leaves_alone_the_lock_of_one_that_began_where_its_directory_was_deleted(process_on):
    disk = SimulatedDisk()
    first, second, third = (process_on(disk, pid) for pid in (1, 2, 3))
    leave = entered(first)
    third.files.delete_folder("")
    entered(second)
    leave()
    with pytest.raises(UserError, match="process 2 on node is writing this run"):
        entered(third)


def test_a_start_that_was_refused_deletes_nothing_of_a_disk_that_is_mounted_meanwhile(process_on):
    disk = SimulatedDisk()
    first, other = (process_on(disk, pid) for pid in (1, 2))
    leave = entered(first)
    first.before["unlink", "run.lock"] = lambda: other.store.write("config.yaml", b"of the run on it")
    leave()
    assert other.store.read("config.yaml") == b"of the run on it"


def test_a_store_that_does_not_answer_for_a_while_costs_no_lease(clients):
    first = clients(1)
    leave = entered(first)

    def silent():
        raise OSError(errno.EHOSTDOWN, "no answer")

    for _ in range(4):
        first.before["head", "run.lock"] = silent
        first.clock.sleep(lock.RENEW_SECONDS)
    leave()
    assert not first.ended
