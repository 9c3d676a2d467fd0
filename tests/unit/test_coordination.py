"""The coordinator's loop without a cluster: its times are the machine's, and an error that ends it is written down."""

import pytest

from noprop_dist.engines.command_runner import CommandRunner
from noprop_dist.engines.coordination import enter, follow_core, goes_on, take_over
from noprop_dist.engines.core.events import ClusterSeen
from noprop_dist.engines.core.placement import Resources, place_run
from noprop_dist.engines.core.run import Run
from noprop_dist.engines.storage_thread import StorageThread
from noprop_dist.machine import ThisMachine
from noprop_dist.records import RunEnded
from noprop_dist.storage.run_directory import RunDirectory

ROOM = Resources(2, 0)


class InTheYear2001(ThisMachine):
    """A machine whose clock stands still."""

    def time(self):
        return 1e9


class Unstartable:
    """Actors of a cluster that fails."""

    def start(self, command):
        raise ConnectionError("the cluster is gone")

    def close(self):
        pass


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(str(tmp_path / "run"))


@pytest.fixture
def follow(small_setup, directory):
    """Follows the core on a cluster that fails, from what lies in the run directory."""
    setup, machine = small_setup[0], InTheYear2001()

    def run():
        enter(setup.plan, directory, resume=goes_on(directory, resume=True, has_begun=False), machine=machine)
        taken = take_over(setup, directory, machine=machine)
        storage = StorageThread(taken.checkpoints, taken.log, directory, machine)
        runner = CommandRunner(Unstartable(), storage, lambda: ClusterSeen(ROOM, frozenset()))
        core = Run(setup.plan, place_run(setup.config, ROOM), taken.start, machine.monotonic())
        try:
            return follow_core(core, runner, machine, lambda: False, lambda _: None)
        finally:
            runner.close(10)

    return run


def test_an_error_that_ends_the_loop_is_written_down_with_the_machines_time(follow, directory):
    with pytest.raises(ConnectionError):
        follow()
    last = directory.metrics()[-1]
    assert last == RunEnded(step=0, error="ConnectionError: the cluster is gone", time=1e9)


def test_a_run_that_lies_in_the_directory_is_gone_on_with(follow, directory):
    for _ in range(2):
        with pytest.raises(ConnectionError):
            follow()
    assert len([each for each in directory.metrics() if isinstance(each, RunEnded)]) == 2


@pytest.mark.parametrize(
    ("resume", "holds_run", "answer"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_coordinator_goes_on_where_a_run_lies_and_it_is_asked_to(small_setup, directory, resume, holds_run, answer):
    if holds_run:
        enter(small_setup[0].plan, directory, resume=False)
    assert goes_on(directory, resume=resume, has_begun=False) == answer


def test_a_run_that_has_begun_is_not_begun_anew_where_its_disk_is_not_there(directory):
    with pytest.raises(OSError, match="config.yaml is gone: the directory was deleted, or its disk is not there"):
        goes_on(directory, resume=True, has_begun=True)
