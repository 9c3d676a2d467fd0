"""What a campaign of faults does when two of them come close together."""

import signal
import subprocess
import time

import pytest

from noprop_dist.bench.fault_kinds import BLOCKS, KINDS, signal_worker
from noprop_dist.records import RoundDone
from noprop_dist.stages import block


class RunWhoseWorkerJustDied:
    """Its records still name the process that is gone; the next incarnation's come a moment later."""

    def __init__(self, dead, alive):
        self.pids = [None, dead, dead, alive]

    def pid(self, _):
        return self.pids.pop(0)

    def wait_for(self, _, found):
        while not found():
            time.sleep(0.001)


def test_a_worker_that_was_lost_just_now_is_hit_once_it_is_back():
    dead, alive = subprocess.Popen(["true"]), subprocess.Popen(["sleep", "60"])
    dead.wait()
    before = time.time()
    begun = signal_worker(RunWhoseWorkerJustDied(dead.pid, alive.pid), "evaluator")
    assert before <= begun <= time.time()
    assert alive.wait(timeout=10) == -signal.SIGKILL


class RunWithAnIdleWorker:
    """Block worker 1 holds every block; worker 2 has just come."""

    def __init__(self, pids):
        self.pids = pids

    def pid(self, worker):
        return self.pids[worker]

    def records(self, kind):
        return [a_round(t, worker) for worker in ("block worker 2", "block worker 1") for t in range(1, BLOCKS + 1)]

    def wait_for(self, _, found):
        assert found()


def a_round(t, worker, time=0.0):
    done = {"first_step": 0, "steps": 8, "step": 8, "loss": 1.0, "error": 1.0, "gradient_norm": 1.0, "seconds": 0.1}
    return RoundDone(stage=block(t), worker=worker, time=time, **done)


@pytest.mark.parametrize("pick", [0, 1])
def test_a_worker_that_holds_no_block_is_not_hit_for_nothing_would_have_to_recover(pick):
    idle, at_work = subprocess.Popen(["sleep", "60"]), subprocess.Popen(["sleep", "60"])
    kind = next(kind for kind in KINDS if kind.name == "block worker killed")
    kind.inject(RunWithAnIdleWorker({"block worker 1": at_work.pid, "block worker 2": idle.pid}), pick)
    assert at_work.wait(timeout=10) == -signal.SIGKILL
    assert idle.poll() is None
    idle.kill()
    idle.wait()


class RunWithRounds:
    def __init__(self, rounds):
        self.records = lambda kind: rounds


def test_a_worker_that_was_stopped_for_a_while_goes_on_once_every_block_has_done_a_round():
    kind = next(kind for kind in KINDS if kind.name == "block worker stopped for a while")
    three = [a_round(t, "block worker 1", time) for t, time in [(4, 9.0), (1, 11.0), (2, 12.0), (3, 13.0)]]
    assert kind.recovered(RunWithRounds(three), 10.0) is None
    assert kind.recovered(RunWithRounds([*three, a_round(4, "block worker 1", 20.0)]), 10.0) == 20.0
    assert kind.recovered(RunWithRounds([*three, *(a_round(4, "block worker 1", t) for t in (20, 21))]), 10.0) == 20.0
