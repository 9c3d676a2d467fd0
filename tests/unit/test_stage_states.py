"""The states of a stage in a run, and the transitions between them."""

import pytest

from noprop_dist.engines.core.commands import Slot
from noprop_dist.engines.core.round_queue import RoundQueue
from noprop_dist.engines.core.stage import (
    ROUNDS_REMEMBERED,
    Done,
    Leaving,
    Replaying,
    StageRun,
    TakenIn,
    Training,
    Waiting,
)
from noprop_dist.stages import block

NOW = 1000.0
ONE, TWO = Slot("block worker", 1), Slot("block worker", 2)


@pytest.fixture
def run():
    return StageRun(block(1), RoundQueue((100,), round_steps=4, prefetch=2), ONE, NOW)


def report(run, step, seconds=0.1):
    run.queue.next_round(0)
    return run.reported(step, 4, seconds, 1.0, NOW)


def test_a_stage_waits_starts_and_trains(run):
    assert (run.state, run.row().state) == (Waiting(NOW), "waiting")
    run.taken_in(ONE, 0)
    assert (run.state, run.row().state) == (TakenIn(ONE), "starting")
    assert report(run, 4)
    assert (run.state, run.row().state) == (Training(ONE), "training")
    assert run.row().step == 4


def test_a_lost_stage_is_recovering_until_it_does_steps_that_are_not_written_yet(run):
    run.taken_in(ONE, 0)
    report(run, 4)
    run.lost(0, NOW + 5, node_left=False)
    assert (run.state, run.row().state) == (Waiting(NOW + 5, lost_at=NOW + 5), "recovering")
    run.taken_in(TWO, 0)
    assert run.state == TakenIn(TWO, lost_at=NOW + 5)
    run.lost(0, NOW + 6, node_left=False)
    assert run.lost_at == NOW + 5, "lost twice, it is gone since the first time"
    run.taken_in(TWO, 0)
    assert not report(run, 4), "these steps are written already"
    assert (run.state, run.row().state) == (Replaying(TWO), "recovering")
    assert report(run, 8)
    assert run.state == Training(TWO)


def test_a_stage_of_a_node_that_has_left_goes_to_another_worker_at_once(run):
    run.taken_in(ONE, 0)
    run.lost(0, NOW + 5, node_left=True)
    assert run.state == Waiting(float("-inf"), lost_at=NOW + 5)


def test_a_stage_that_leaves_keeps_leaving_whatever_is_still_reported(run):
    run.taken_in(ONE, 0)
    run.leave()
    report(run, 4)
    assert (run.state, run.row().state) == (Leaving(ONE), "moving")
    run.taken_off(4, NOW)
    assert run.state == Waiting(NOW)
    assert run.queue.next_step == 4


def test_a_stage_with_its_last_snapshot_is_done_and_one_that_is_stopped_stays_so(run):
    run.taken_in(ONE, 0)
    run.taken_off(100, NOW)
    assert (run.state, run.over) == (Done(), True)
    run.stop("it raised")
    assert (run.over, run.row().state, run.worker) == (True, "stopped", None)
    run.taken_off(0, NOW)
    assert run.stopped


def test_a_resumed_stage_that_is_finished_waits_for_no_worker():
    assert StageRun(block(1), RoundQueue((100,), 4, 2, steps_done=100), ONE, NOW).state == Done()


def test_a_round_that_was_slow_once_is_forgotten(run):
    """How long a worker may be silent before it counts as hung follows from it."""
    run.taken_in(ONE, 0)
    assert run.slowest_step_seconds is None
    report(run, 4, seconds=4 * 0.8)
    for _ in range(ROUNDS_REMEMBERED - 1):
        report(run, 8, seconds=4 * 0.005)
    assert run.slowest_step_seconds == 0.8
    report(run, 12, seconds=4 * 0.006)
    assert run.slowest_step_seconds == 0.006


def test_how_fast_a_worker_is_follows_from_what_is_usual_there_and_not_from_its_first_rounds(run):
    run.taken_in(ONE, 0)
    for step, seconds in ((4, 4 * 0.8), (8, 4 * 0.005)):
        report(run, step, seconds=seconds)
        assert run.usual_step_seconds is None
    report(run, 12, seconds=4 * 0.006)
    assert run.usual_step_seconds == 0.006
    run.taken_off(0, NOW)
    run.taken_in(TWO, 0)
    assert run.usual_step_seconds is None, "another worker may be as fast as any"
