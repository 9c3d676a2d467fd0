"""Stages and actors are found by their state without looking through all of them in every turn."""

from noprop_dist.engines.core.actor_pool import Absent, ActorPool, GivenBack, Ready
from noprop_dist.engines.core.commands import Slot
from noprop_dist.engines.core.round_queue import RoundQueue
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.engines.core.watched import Watched
from noprop_dist.stages import CLASSIFIER, block
from noprop_dist.training.messages import WorkerFacts

WORKER = Slot("block worker", 1)


class Door:
    def __init__(self):
        self.asked, self.is_open = 0, False

    @property
    def open(self):
        self.asked += 1
        return self.is_open


def test_members_are_looked_at_again_only_after_one_has_changed():
    doors = Watched()
    for number in range(3):
        doors[number] = Door()
    assert doors.those("open") == doors.those("open") == []
    assert [door.asked for door in doors.values()] == [1, 1, 1]
    doors[1].is_open = True
    doors.changed()
    assert doors.those("open") == [doors[1]]
    doors[3] = Door()
    doors[3].is_open = True
    assert doors.those("open") == [doors[1], doors[3]]


def test_what_changes_while_it_is_looked_for_is_looked_for_again():
    doors = Watched()

    class Opening(Door):
        """Another thread opens it right after it was looked at."""

        @property
        def open(self):
            was, self.is_open = self.is_open, True
            if not was:
                doors.changed()
            return was

    doors[0] = Opening()
    assert doors.those("open") == []
    assert doors.those("open") == [doors[0]]


def test_stages_are_found_by_every_state_that_they_come_to():
    stages = Watched()
    for stage in (block(1), block(2), CLASSIFIER):
        stages[stage] = StageRun(stage, RoundQueue((8,), 4, 2), WORKER, 0.0, stages.changed)
    first, second, classifier = stages.values()

    def found():
        return [stages.those(which) for which in ("waits", "leaving", "stopped", "is_left", "is_block_left")]

    assert found() == [[first, second, classifier], [], [], [first, second, classifier], [first, second]]
    first.taken_in(WORKER, 0)
    assert found()[0] == [second, classifier]
    first.leave()
    assert found()[1] == [first]
    first.taken_off(0, 1.0)
    assert found()[:2] == [[first, second, classifier], []]
    first.stop("it failed")
    second.end()
    assert found() == [[classifier], [], [first], [classifier], []]


def test_actors_are_found_by_every_state_that_they_come_to():
    outbox = []
    pool = ActorPool(outbox, 60)
    pool.add(WORKER)
    slot = pool.slots[WORKER]

    def found():
        wanted = pool.slots.those("is_wanted_block_worker") == [slot]
        return slot in pool.slots.those("absent"), slot in pool.slots.those("is_ready_block_worker"), wanted

    assert found() == (True, False, True)
    pool.start_absent(0.0)
    assert found() == (False, False, True)
    list(pool.answered(outbox[-1].call, WorkerFacts("host", "node", 1, "cpu"), 1.0))
    assert isinstance(slot.state, Ready)
    assert found() == (False, True, True)
    pool.nodes_leaving(frozenset({"node"}))
    assert pool.leaving() == [slot]
    pool.end(slot, Absent(retry_at=2.0))
    assert (pool.leaving(), found()) == ([], (True, False, True))
    pool.end(slot, GivenBack())
    assert found() == (False, False, False)
