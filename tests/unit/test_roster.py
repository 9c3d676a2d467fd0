"""Stages come to workers as these become ready; a fleet without processes, on a clock that the test moves."""

import pytest

from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.core.round_queue import StageQueue
from noprop_dist.engines.ray import roster as roster_module
from noprop_dist.engines.ray.fleet import Fleet
from noprop_dist.engines.ray.roster import Roster
from noprop_dist.engines.ray.stage import Stage
from noprop_dist.training.messages import WorkerFacts

STARTED = 1000.0


class SilentFleet(Fleet):
    """Its workers are told nothing."""

    def call(self, *arguments, **keywords):
        pass


class NoSnapshots:
    def latest(self, stage):
        return None

    def latest_step(self, stage):
        return 0


@pytest.fixture
def starting(monkeypatch):
    """Three workers that are starting, with a block each, and the clock."""
    clock = [STARTED]
    monkeypatch.setattr(roster_module.time, "monotonic", lambda: clock[0])
    fleet = SilentFleet(60)
    stages = {}
    for number in (1, 2, 3):
        fleet.add(f"block worker {number}", lambda: None)
        queue = StageQueue((100,), 16, 2)
        stages[number] = Stage(number, f"block {number}", queue, f"block worker {number}", waiting_since=STARTED)
    return Roster(stages, fleet, NoSnapshots(), EngineSettings(move_after_seconds=30)), stages, fleet, clock


def ready(fleet, *numbers):
    for number in numbers:
        fleet.workers[f"block worker {number}"].facts = WorkerFacts("host", "node", number, "cpu")


def test_where_all_workers_start_late_the_first_is_not_given_every_block(starting):
    roster, stages, fleet, clock = starting
    roster.assign()
    clock[0] += 48
    ready(fleet, 2)
    assert [stage.number for stage in roster.assign()] == [2]
    clock[0] += 8
    ready(fleet, 1, 3)
    assert {stage.number for stage in roster.assign()} == {1, 3}
    assert all(stage.worker == f"block worker {number}" for number, stage in stages.items())


def test_a_worker_that_does_not_come_is_waited_for_from_the_first_one_on(starting):
    roster, stages, fleet, clock = starting
    clock[0] += 48
    ready(fleet, 1, 2)
    assert len(roster.assign()) == 2
    clock[0] += 29
    assert not roster.assign()
    clock[0] += 2
    assert [stage.number for stage in roster.assign()] == [3]
    assert stages[3].worker in ("block worker 1", "block worker 2")


def test_a_block_of_a_node_that_has_left_waits_for_nothing(starting):
    roster, stages, fleet, clock = starting
    clock[0] += 48
    ready(fleet, 1, 2, 3)
    roster.assign()
    fleet.workers["block worker 3"].leaving = True
    roster.forget(stages[3])
    fleet.workers["block worker 3"].facts = None
    assert [stage.number for stage in roster.assign()] == [3]
