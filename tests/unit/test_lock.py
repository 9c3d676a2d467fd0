"""Whoever wants to write a run directory that another process writes: whom it waits for is told, and for how long."""

import errno
import json
import re

import pytest

from noprop_dist import api
from noprop_dist.engines.core.placement import Resources
from noprop_dist.engines.ray import coordinator
from noprop_dist.errors import UserError
from noprop_dist.machine import ThisMachine
from noprop_dist.storage import lock
from noprop_dist.storage.store import Store
from noprop_dist.storage.system import ThisSystem

HELD = json.dumps({"host": "node-3\n\x1b[2J", "pid": 4711}).encode()


class Clock:
    """Made-up time; `asleep` is called with every sleep."""

    def __init__(self):
        self.now, self.asleep = 100.0, lambda: None

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.asleep()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for name in ("monotonic", "sleep"):
        monkeypatch.setattr(ThisMachine, name, getattr(clock, name))
    return clock


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A place without flock, in which a process left its lease."""

    def no_flock(*_):
        raise OSError(errno.ENOTSUP, "no such locks here")

    monkeypatch.setattr(ThisSystem, "flock", no_flock)
    store = Store(str(tmp_path / "run"))
    store.write(lock.LOCK, HELD)
    return store


def test_a_dead_writers_lease_is_waited_for_with_a_word_of_whose_it_is_and_how_long(clock, store):
    said = []
    with lock.only_writer(store, lambda line: said.append((clock.now, line))):
        assert clock.now == 100.0 + lock.LEASE_SECONDS
    told = r"process 4711 on node-3\n\x1b[2J writes this run; if it is dead, its lease ends within 28 s"
    assert said == [(102.0, f"{store}: {told}")]


def test_a_lease_that_is_renewed_is_refused_at_once(clock, store):
    clock.asleep = lambda: store.write(lock.LOCK, HELD + b" ")
    with pytest.raises(UserError, match="process 4711 on .* is writing this run"), lock.only_writer(store):
        pass
    assert clock.now == 101.0


def test_a_lease_that_is_given_back_between_two_questions_is_free(clock, store, monkeypatch):
    read = Store.read

    def deleted_meanwhile(self, name, offset=0):
        if self.exists(name) and clock.now == 100.0:
            clock.now += 1
            self.delete(name)
        return read(self, name, offset)

    monkeypatch.setattr(Store, "read", deleted_meanwhile)
    with lock.only_writer(store):
        pass


def test_a_process_that_is_just_ending_is_waited_for_with_a_word(clock, tmp_path):
    said, store = [], Store(str(tmp_path / "run"))
    with (
        lock.only_writer(store),
        pytest.raises(UserError, match="is writing this run"),
        lock.only_writer(store, lambda line: said.append((round(clock.now), line))),
    ):
        pass
    ((when, line),) = said
    assert when == 102
    assert re.search(r"process \d+ on .* writes this run; if it is just ending, it has 8 s to let go$", line)
    assert 110 <= clock.now < 111


@pytest.mark.parametrize(
    "owner", ["[]", "null", '{"pid": Infinity, "host": "a"}', '{"pid": 1, "host": []}', "[" * 9999]
)
def test_a_lock_may_hold_anything(clock, store, owner):
    store.write(lock.LOCK, owner.encode())
    said = []
    with lock.only_writer(store, said.append):
        assert said == [f"{store}: another process writes this run; if it is dead, its lease ends within 28 s"]


def test_what_a_coordinator_waits_for_is_its_progress_until_there_is_a_table(clock, store, small_config, monkeypatch):
    monkeypatch.setattr(coordinator, "cluster_resources", lambda: Resources(2, 0))
    config = small_config("metrics.discovery=/proc/no/targets")  # is refused once the directory is its own
    run, seen = coordinator.Coordinator(config, store.root), []
    clock.asleep = lambda: seen.append(run.progress())
    with pytest.raises(UserError, match="discovery"):
        run.run()
    assert seen[0] is None
    assert "process 4711 on node-3" in seen[-1]


def test_a_run_directory_that_another_process_writes_is_told_before_ray_is_started(clock, tmp_path, small_config):
    said = []
    watcher = api.Watcher(say=said.append)
    directory = Store(str(tmp_path / "run"))
    with lock.only_writer(directory), pytest.raises(UserError, match="is writing this run"):
        api.train(small_config(), directory.root, watcher=watcher)
    assert [line.partition(";")[0].rpartition(" ")[2] for line in said] == ["networks", "run"]


def test_so_is_one_that_nobody_can_write(tmp_path, small_config):
    said = []
    (tmp_path / "file").write_text("mine")
    for folder in ("file", "file/run"):
        with pytest.raises(UserError, match="is a file; a run directory is a new folder|Not a directory"):
            api.train(small_config(), str(tmp_path / folder), watcher=api.Watcher(say=said.append))
    assert "starting Ray" not in said
    assert (tmp_path / "file").read_text() == "mine"
