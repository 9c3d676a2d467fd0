"""What a campaign of faults does when two of them come close together."""

import signal
import subprocess
import time

from noprop_dist.bench.fault_kinds import signal_worker


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
