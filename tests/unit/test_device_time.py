"""Device seconds of a run: those that were there, had work to do, and trained."""

import pytest

from noprop_dist.bench.device_time import (
    Sample,
    device_seconds,
    first_step,
    last_step,
    spans,
    start_up_seconds,
    training_of,
)
from noprop_dist.records import RoundDone, WorkerReady
from noprop_dist.stages import CLASSIFIER, block


def ready(worker, node):
    return WorkerReady(worker=worker, incarnation=1, host="h", node_id=node, pid=1, device="cpu")


def trained(stage, worker, time, seconds, step=10):
    figures = {"loss": 1.0, "error": 1.0, "gradient_norm": 1.0}
    return RoundDone(
        stage=stage, first_step=step - 10, steps=10, step=step, seconds=seconds, worker=worker, time=time, **figures
    )


RECORDS = [
    ready("block worker 1", "a"),
    ready("block worker 2", "b"),
    trained(block(1), "block worker 1", time=4.0, seconds=2.0),
    trained(CLASSIFIER, "classifier worker", time=4.0, seconds=1.0, step=20),
    trained(block(2), "block worker 2", time=5.0, seconds=1.0),
    ready("block worker 1", "c"),
    trained(block(1), "block worker 1", time=8.0, seconds=2.0, step=20),
]
"""Node a trains from 2 to 4, b from 4 to 5, c from 6 to 8; block 1 ends at 8, block 2 does not."""
SAMPLES = [Sample(float(second), frozenset("ab" if second < 6 else "abc")) for second in range(11)]


def test_a_worker_that_moved_to_another_node_trains_there():
    assert training_of(RECORDS) == {"a": [(2.0, 4.0)], "b": [(4.0, 5.0)], "c": [(6.0, 8.0)]}


def test_device_seconds_count_no_more_devices_than_there_are_unfinished_blocks():
    found = spans(SAMPLES, RECORDS, blocks=2, steps=20)
    assert [(span.there, span.wanted) for span in found[5:9]] == [(2, 2), (3, 2), (3, 2), (3, 1)]
    sums = device_seconds(found, 0.0, 10.0)
    assert (sums.there, sums.wanted, sums.training) == (24.0, 18.0, 5.0)
    assert sums.share == pytest.approx(5 / 18)


def test_start_up_is_counted_for_nodes_that_came_later_and_trained():
    assert start_up_seconds(SAMPLES, RECORDS, since=0.0) == 0.0
    late = [Sample(each.time - 3.0, each.nodes) for each in SAMPLES]
    assert start_up_seconds(late, RECORDS, since=-3.0) == 3.0


def test_the_first_step_is_done_one_step_after_the_first_round_began():
    assert first_step(RECORDS) == pytest.approx(2.2)
    assert last_step(RECORDS) == 8.0
