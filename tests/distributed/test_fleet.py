"""The fleet's replies, from a real actor."""

import time

import ray

from noprop_dist.distributed.fleet import Fleet, Ready, Reply
from noprop_dist.distributed.messages import WorkerFacts

CALLS = 8


@ray.remote
class Echo:
    def facts(self):
        return WorkerFacts("host", "node", 1, "cpu")

    def train(self, value):
        return value


def test_replies_that_wait_together_are_taken_in_the_order_of_their_calls(ray_here):
    """Ray says which are there in an order of its own; the first of two reports, taken second, passed for a replay."""
    fleet = Fleet(start_timeout_seconds=60)
    fleet.add("block worker 1", Echo.remote)
    fleet.replace_lost()
    worker = fleet.workers["block worker 1"]
    while not worker.ready:
        assert all(isinstance(event, Ready) for event in fleet.poll(0.2))
    for value in range(CALLS):
        fleet.call(worker, "train", 60, value)
    ray.wait(list(worker.calls), num_returns=CALLS, timeout=60)
    time.sleep(0.1)
    replies = [event.value for event in fleet.poll(0.2) if isinstance(event, Reply)]
    fleet.close()
    assert replies == list(range(CALLS))
