"""What follows from a failure, as a table: what was lost, the budgets, and the decision."""

import pytest

from noprop_dist.engines.core.failure_policy import (
    CoordinatorLosses,
    Decision,
    Loss,
    after_loss,
    back_off_seconds,
    within_budget,
)
from noprop_dist.stages import block
from noprop_dist.training.progress import RunProgress, StageProgress


def loss(reason="died", constructor_raised=False, losses_in_row=0, stage_failures=None):
    return Loss(reason, "its process was killed", constructor_raised, losses_in_row, stage_failures)


AGAIN, NEVER = 0.0, None
OVER_BUDGET = (
    "3 workers were lost while at work on it, engine.max_failures=2 are allowed; the last one: its process was killed"
)


@pytest.mark.parametrize(
    ("lost", "max_failures", "decision"),
    [
        # Nobody is charged for an actor that was at work on nothing.
        (loss(), 2, Decision(AGAIN, False, None)),
        (loss(reason="node_leaving"), 0, Decision(AGAIN, False, None)),
        # The stage at work is charged, and begins again within its budget.
        (loss(stage_failures=0), 2, Decision(AGAIN, True, None)),
        (loss(stage_failures=1), 2, Decision(AGAIN, True, None)),
        (loss(stage_failures=2), 2, Decision(AGAIN, True, OVER_BUDGET)),
        (loss(reason="hung", stage_failures=2), 2, Decision(AGAIN, True, OVER_BUDGET)),
        (loss(stage_failures=1000), -1, Decision(AGAIN, True, None)),
        # The stage is stopped, and its worker is started again all the same: others may live there.
        (loss(stage_failures=0), 0, Decision(AGAIN, True, OVER_BUDGET.replace("3 ", "1 ").replace("=2", "=0"))),
        # An actor that dies again and again without any work in between is started ever later.
        (loss(losses_in_row=1), 2, Decision(1.0, False, None)),
        (loss(losses_in_row=4, stage_failures=0), 2, Decision(8.0, True, None)),
        (loss(losses_in_row=99), 2, Decision(30.0, False, None)),
        # A constructor that raises would only raise again.
        (loss(constructor_raised=True), 2, Decision(NEVER, False, None)),
        (loss(constructor_raised=True, stage_failures=0), 2, Decision(NEVER, True, None)),
    ],
)
def test_what_follows_from_a_loss(lost, max_failures, decision):
    assert after_loss(lost, max_failures) == decision


def test_back_off_doubles_up_to_half_a_minute():
    assert [back_off_seconds(losses) for losses in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(("failures", "most", "allowed"), [(1, 1, True), (2, 1, False), (1, 0, False), (9, -1, True)])
def test_a_budget_of_minus_one_has_no_end(failures, most, allowed):
    assert within_budget(failures, most) is allowed


def progress(state):
    return RunProgress(8, (StageProgress(block(1), 4, None, 0.0, state),), 1.0, None, (), 0)


def test_coordinators_that_are_lost_before_a_block_trains_use_up_the_budget():
    losses = CoordinatorLosses(max_failures=2, storage_timeout_seconds=60)
    assert not losses.reset_by(progress("starting"))
    assert [losses.lost() for _ in range(3)] == [0.0, 1.0, None]


def test_a_block_that_trains_gives_the_next_coordinators_the_whole_budget():
    losses = CoordinatorLosses(max_failures=1, storage_timeout_seconds=60)
    losses.lost()
    assert losses.reset_by(progress("training"))
    assert [losses.lost() for _ in range(2)] == [0.0, None]


def test_a_coordinator_that_takes_the_place_of_a_lost_one_waits_for_storage_that_fails():
    losses = CoordinatorLosses(max_failures=1, storage_timeout_seconds=60)
    losses.lost()
    assert [losses.storage_failed(now) for now in (100.0, 101.0, 120.0, 158.0)] == [1.0, 2.0, 4.0, 2.0]
    assert losses.storage_failed(160.0) is None
    assert losses.lost() is None, "the storage's failures are none of the coordinators'"


def test_the_first_coordinator_tells_at_once_that_storage_fails():
    assert CoordinatorLosses(max_failures=-1, storage_timeout_seconds=60).storage_failed(0.0) is None


def test_storage_that_fails_again_is_waited_for_anew_once_a_block_has_trained():
    losses = CoordinatorLosses(max_failures=-1, storage_timeout_seconds=60)
    losses.lost()
    losses.storage_failed(100.0)
    losses.reset_by(progress("training"))
    assert losses.storage_failed(170.0) == 1.0
