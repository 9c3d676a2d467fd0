"""What a campaign of faults does when two of them come close together."""

import signal
import subprocess
import time

import pytest

from noprop_dist.bench.fault_kinds import BLOCKS, KINDS, signal_worker, workers_at_work
from noprop_dist.config.layers import load_config
from noprop_dist.records import RoundDone, WorkerLost, WorkerReady
from noprop_dist.stages import block

BLOCK_NUMBERS = range(1, BLOCKS + 1)


class RunWhoseWorkerJustDied:
    """Its records still name the process that is gone; the next incarnation's come a moment later."""

    def __init__(self, dead, alive):
        self.pids = [None, dead, dead, alive]

    def pid(self, _):
        return self.pids.pop(0)

    def wait_for(self, _, found):
        while (there := found()) is None:
            time.sleep(0.001)
        return there


def test_a_worker_that_was_lost_just_now_is_hit_once_it_is_back():
    dead, alive = subprocess.Popen(["true"]), subprocess.Popen(["sleep", "60"])
    dead.wait()
    before = time.time()
    begun = signal_worker(RunWhoseWorkerJustDied(dead.pid, alive.pid), "evaluator")
    assert before <= begun <= time.time()
    assert alive.wait(timeout=10) == -signal.SIGKILL


class RunWith:
    """A run of 100 steps a block, with these records and no processes."""

    def __init__(self, *records):
        self._records = records
        self.directory = self

    def records(self, kind):
        return [each for each in self._records if isinstance(each, kind)]

    def wait_for(self, _, found):
        there = found()
        assert there
        return there

    def config(self):
        return load_config("digits", None, ["training.max_steps=100"])


def ready(worker, time):
    facts = {"incarnation": 1, "host": "here", "node_id": "a", "pid": 1, "device": "cpu"}
    return WorkerReady(worker=worker, time=time, **facts)


def a_round(t, worker, time, step=8):
    done = {
        "first_step": step - 8,
        "steps": 8,
        "step": step,
        "loss": 1.0,
        "error": 1.0,
        "gradient_norm": 1.0,
        "seconds": 0.1,
    }
    return RoundDone(stage=block(t), worker=worker, time=time, **done)


COORDINATOR = ready("coordinator", 1.0)
BOTH = (COORDINATOR, ready("block worker 1", 2.0), ready("block worker 2", 2.5))


def test_a_worker_whose_blocks_another_one_holds_by_now_is_not_at_work():
    rounds = [
        a_round(t, worker, time)
        for worker, time in (("block worker 2", 3.0), ("block worker 1", 4.0))
        for t in BLOCK_NUMBERS
    ]
    assert workers_at_work(RunWith(*BOTH, *rounds)) == ["block worker 1"]


@pytest.mark.parametrize("pick", [0, 1])
def test_a_worker_that_holds_no_block_is_not_hit_for_nothing_would_have_to_recover(pick):
    idle, at_work = subprocess.Popen(["sleep", "60"]), subprocess.Popen(["sleep", "60"])
    run = RunWith(*BOTH, *(a_round(t, "block worker 1", 4.0) for t in BLOCK_NUMBERS))
    run.pid = {"block worker 1": at_work.pid, "block worker 2": idle.pid}.get
    kind_named("block worker killed").inject(run, pick)
    assert at_work.wait(timeout=10) == -signal.SIGKILL
    assert idle.poll() is None
    idle.kill()
    idle.wait()


def test_one_round_since_then_is_enough_where_another_block_of_the_worker_waits():
    rounds = a_round(1, "block worker 1", 4.0), a_round(2, "block worker 1", 1.5)
    assert workers_at_work(RunWith(*BOTH, *rounds)) == ["block worker 1"]


@pytest.mark.parametrize(
    "since",
    [
        ready("block worker 2", 5.0),
        ready("coordinator", 3.5),
        WorkerLost(worker="block worker 2", incarnation=1, cause="its node has died", time=5.0),
    ],
)
def test_a_worker_is_at_work_only_by_rounds_that_it_did_since_it_and_the_coordinator_began(since):
    rounds = a_round(1, "block worker 1", 4.0), a_round(2, "block worker 2", 3.0)
    assert workers_at_work(RunWith(*BOTH, *rounds)) == ["block worker 1", "block worker 2"]
    assert workers_at_work(RunWith(*BOTH, *rounds, since)) == ["block worker 1"]


def test_what_was_hit_goes_on_once_every_block_has_done_a_round():
    three = [a_round(t, "block worker 1", time) for t, time in [(4, 9.0), (1, 11.0), (2, 12.0), (3, 13.0)]]
    assert goes_on(three) is None
    assert goes_on([*three, a_round(4, "block worker 1", 20.0)]) == 20.0
    assert goes_on([*three, *(a_round(4, "block worker 1", t) for t in (20, 21))]) == 20.0


def test_a_block_that_was_done_before_need_not_go_on():
    done = [a_round(t, "block worker 1", 9.0, step=100) for t in BLOCK_NUMBERS]
    assert goes_on(done) == 10.0
    assert goes_on([*done[:3], a_round(4, "block worker 1", 9.0)]) is None


def goes_on(rounds):
    """When all go on after time 10, as both kinds of fault see it that ask for this."""
    kinds = kind_named("node drained, then killed"), kind_named("block worker stopped for a while")
    (time_seen,) = {kind.recovered(RunWith(*rounds), 10.0) for kind in kinds}
    return time_seen


def kind_named(name):
    return next(kind for kind in KINDS if kind.name == name)
