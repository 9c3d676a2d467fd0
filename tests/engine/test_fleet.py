"""The fleet's replies, from a real actor."""

import time

import ray

from noprop_dist.engines.ray.fleet import Fleet, Lost, Ready, Reply
from noprop_dist.engines.ray.worker import lane_name
from noprop_dist.training.messages import WorkerFacts

CALLS = 8
SLEEP = -1


class EchoActor:
    def facts(self):
        return WorkerFacts("host", "node", 1, "cpu")

    def train(self, value):
        if value == SLEEP:
            time.sleep(600)
        return value


Echo = ray.remote(EchoActor)
TwoLanes = ray.remote(concurrency_groups={lane_name(0): 1, lane_name(1): 1})(EchoActor)


def ready(create, lanes=1):
    """A fleet of one worker, which is ready."""
    fleet = Fleet(start_timeout_seconds=60)
    fleet.add("block worker 1", create, lanes)
    fleet.replace_lost()
    worker = fleet.workers["block worker 1"]
    while not worker.ready:
        assert all(isinstance(event, Ready) for event in fleet.poll(0.2))
    return fleet, worker


def test_replies_that_wait_together_are_taken_in_the_order_of_their_calls(ray_here):
    """Ray says which are there in an order of its own; the first of two reports, taken second, passed for a replay."""
    fleet, worker = ready(Echo.remote)
    for value in range(CALLS):
        fleet.call(worker, "train", 60, value)
    ray.wait(list(worker.calls), num_returns=CALLS, timeout=60)
    time.sleep(0.1)
    replies = [event.value for event in fleet.poll(0.2) if isinstance(event, Reply)]
    fleet.close()
    assert replies == list(range(CALLS))


def test_a_lane_that_hangs_is_noticed_though_the_other_goes_on(ray_here):
    fleet, worker = ready(TwoLanes.remote, lanes=2)
    fleet.call(worker, "train", 60, "of stage 2", stage=2)
    fleet.call(worker, "train", 1.5, SLEEP, stage=1)
    fleet.call(worker, "train", 60, "behind it", stage=1)
    replies, lost = [], None
    while lost is None:
        events = fleet.poll(0.1)
        replies += [event.value for event in events if isinstance(event, Reply)]
        lost = next((event for event in events if isinstance(event, Lost)), None)
        if lost is None and len(replies) < CALLS:
            fleet.call(worker, "train", 60, "of stage 2", stage=2)
    assert (lost.reason, lost.stage) == ("hung", 1)
    assert set(replies) == {"of stage 2"}
    assert not worker.calls
    fleet.close()
