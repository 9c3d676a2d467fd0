"""A stage's queue: bounded, cut at snapshots, and blind to every other stage."""

import pytest

from noprop_dist.engines.core.round_queue import MAX_UNSAVED_SNAPSHOTS, RoundQueue


def drain(queue):
    """Do every round as soon as it is sent; returns the rounds."""
    rounds = []
    while (work := queue.next_round(0)) is not None:
        rounds.append(work)
        if queue.at_snapshot:
            queue.snapshot_asked()
            queue.snapshot_received()
        queue.round_done(sum(work))
    return rounds


def test_rounds_are_cut_at_snapshots_and_cover_every_step_once():
    rounds = drain(RoundQueue([10, 20, 25], round_steps=4, prefetch=2))
    assert rounds == [(0, 4), (4, 4), (8, 2), (10, 4), (14, 4), (18, 2), (20, 4), (24, 1)]


@pytest.mark.parametrize("round_steps", [1, 7, 32])
def test_a_resumed_stage_begins_where_it_stopped(round_steps):
    rounds = drain(RoundQueue([10, 20], round_steps, prefetch=2, steps_done=10))
    assert rounds[0][0] == 10
    assert sum(steps for _, steps in rounds) == 10


def test_no_more_rounds_are_in_flight_than_allowed():
    queue = RoundQueue([100], round_steps=10, prefetch=3)
    assert [queue.next_round(0) for _ in range(4)] == [(0, 10), (10, 10), (20, 10), None]
    queue.round_done(10)
    assert queue.next_round(0) == (30, 10)
    assert queue.next_round(0) is None


def test_a_stage_waits_for_storage_that_is_too_far_behind():
    queue = RoundQueue([1, 2, 3, 4], round_steps=1, prefetch=10)
    assert MAX_UNSAVED_SNAPSHOTS == 2
    assert queue.next_round(1) == (0, 1)
    queue.snapshot_asked()
    assert queue.next_round(1) is None, "one on its way here and one to be written"
    assert queue.next_round(0) == (1, 1)


def test_a_queue_is_finished_once_the_last_snapshot_is_here():
    queue = RoundQueue([4], round_steps=4, prefetch=1)
    queue.next_round(0)
    queue.snapshot_asked()
    queue.round_done(4)
    assert not queue.finished
    queue.snapshot_received()
    assert queue.finished
    assert queue.next_round(0) is None


def test_a_lost_stage_is_sent_the_very_same_rounds_again():
    queue = RoundQueue([10, 20], round_steps=4, prefetch=3)
    first = [queue.next_round(0) for _ in range(3)]
    queue.rewind(0)
    assert queue.idle
    assert [queue.next_round(0) for _ in range(3)] == first


def test_rounds_that_a_stopping_worker_refused_leave_the_stage_where_it_was():
    queue = RoundQueue([10], round_steps=4, prefetch=2)
    queue.next_round(0)
    queue.next_round(0)
    queue.round_done(3)
    queue.round_refused()
    assert queue.idle
    assert queue.steps_done == 3
    assert queue.steps_left == 7
