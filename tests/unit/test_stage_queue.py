"""A stage's queue: bounded, cut at checkpoints, and blind to every other stage."""

import pytest

from noprop_dist.distributed.stage_queue import MAX_UNSAVED_SNAPSHOTS, StageQueue


def drain(queue):
    """Do every round as soon as it is sent; returns the rounds."""
    rounds = []
    while (work := queue.next_round()) is not None:
        rounds.append(work)
        if queue.at_checkpoint:
            queue.snapshot_saved()
        queue.round_done()
    return rounds


def test_rounds_are_cut_at_checkpoints_and_cover_every_step_once():
    rounds = drain(StageQueue([10, 20, 25], round_steps=4, prefetch=2))
    assert rounds == [(0, 4), (4, 4), (8, 2), (10, 4), (14, 4), (18, 2), (20, 4), (24, 1)]


@pytest.mark.parametrize("round_steps", [1, 7, 32])
def test_a_resumed_stage_begins_where_it_stopped(round_steps):
    rounds = drain(StageQueue([10, 20], round_steps, prefetch=2, steps_done=10))
    assert rounds[0][0] == 10
    assert sum(steps for _, steps in rounds) == 10


def test_no_more_rounds_are_in_flight_than_allowed():
    queue = StageQueue([100], round_steps=10, prefetch=3)
    assert [queue.next_round() for _ in range(4)] == [(0, 10), (10, 10), (20, 10), None]
    queue.round_done()
    assert queue.next_round() == (30, 10)
    assert queue.next_round() is None


def test_a_stage_waits_for_storage_that_is_too_far_behind():
    queue = StageQueue([1, 2, 3, 4], round_steps=1, prefetch=10)
    sent = [queue.next_round() for _ in range(4)]
    assert sent == [(0, 1), (1, 1), None, None]
    assert MAX_UNSAVED_SNAPSHOTS == 2
    queue.snapshot_saved()
    assert queue.next_round() == (2, 1)


def test_a_queue_is_busy_until_the_last_snapshot_is_saved():
    queue = StageQueue([4], round_steps=4, prefetch=1)
    assert queue.busy
    queue.next_round()
    assert queue.at_checkpoint
    queue.round_done()
    assert queue.busy
    queue.snapshot_saved()
    assert not queue.busy
    assert queue.next_round() is None
