"""Actors as the core knows them: incarnations, calls in order, and silence that is noticed lane by lane."""

import random

import pytest

from noprop_dist.engines.core.actor_pool import CONTROL_LANE, Absent, ActorPool, GivenUp, Ready
from noprop_dist.engines.core.commands import CallActor, KillActor, Slot, StartActor, TakeSnapshot
from noprop_dist.stages import block
from noprop_dist.training.messages import WorkerFacts

NOW = 1000.0
WORKER = Slot("block worker", 1)
FACTS = WorkerFacts("host", "node", 1, "cpu")


def made(lanes=1):
    """A pool of one worker, which is ready, and the list of its commands."""
    outbox = []
    pool = ActorPool(outbox, start_timeout_seconds=60)
    pool.add(WORKER, None, lanes)
    pool.start_absent(NOW)
    answer(pool, outbox[-1].call, FACTS)
    return pool, outbox


def answer(pool, number, value=None):
    return [each.value for each in pool.answered(number, value, NOW)]


def ask(pool, outbox, stage, patience=60.0, now=NOW):
    pool.call(WORKER, TakeSnapshot(stage), stage, patience, now)
    return outbox[-1].call


def test_a_slot_is_started_once_and_is_ready_when_it_describes_itself():
    pool, outbox = made()
    assert [type(command) for command in outbox] == [StartActor, CallActor]
    assert pool.slots[WORKER].state == Ready(FACTS)
    pool.start_absent(NOW)
    assert len(outbox) == 2


def test_replies_are_taken_in_the_order_of_their_calls():
    """Ray tells of replies in its own order. Taken before an earlier one, a report made that one pass for a replay."""
    pool, outbox = made()
    first, second, third = (ask(pool, outbox, block(t)) for t in (1, 2, 3))
    assert answer(pool, third, "c") == []
    assert answer(pool, first, "a") == ["a"]
    assert answer(pool, second, "b") == ["b", "c"]


def test_lanes_do_not_wait_for_each_other():
    pool, outbox = made(lanes=2)
    ask(pool, outbox, block(1))
    assert answer(pool, ask(pool, outbox, block(2)), "of block 2") == ["of block 2"]


def overdue_of_all(pool, now):
    """What `overdue` says, looked for in all lanes."""
    return [
        (slot.slot, lane, calls[0].number)
        for slot in pool.slots.values()
        for lane, calls in slot.calls.items()
        if calls and now - max(slot.heard.get(lane, 0.0), calls[0].since) > calls[0].patience_seconds
    ]


def silent_of_all(pool, hang_seconds, now):
    """Whom `ping_silent` pings, looked for in all slots."""
    return [
        slot.slot
        for slot in pool.slots.values()
        if slot.ready
        and not slot.calls.get(CONTROL_LANE)
        and (calls := [call for each in slot.calls.values() for call in each])
        and now - max(min(call.since for call in calls), *slot.heard.values()) > hang_seconds
    ]


def test_silence_is_noticed_in_the_same_turn_as_if_everyone_was_looked_at():
    generator, outbox, now = random.Random(3), [], 0.0
    pool = ActorPool(outbox, start_timeout_seconds=9)
    for index in range(1, 6):
        pool.add(Slot("block worker", index))
    noticed = pinged = 0
    for _ in range(4000):
        now += generator.choice((0.01, 0.1, 0.7))
        pool.start_absent(now)
        wanted, before = silent_of_all(pool, 5.0, now), len(outbox)
        pool.ping_silent(5.0, now)
        assert [each.process.slot for each in outbox[before:]] == wanted
        late = [(slot.slot, lane, call.number) for slot, lane, call in pool.overdue(now)]
        assert late == overdue_of_all(pool, now)
        noticed, pinged = noticed + len(late), pinged + len(wanted)
        for slot, _, _ in late:
            pool.end(pool.slots[slot], Absent(retry_at=now + 1))
        slot = generator.choice(list(pool.slots.values()))
        if slot.ready and generator.random() < 0.3:
            pool.call(slot.slot, TakeSnapshot(block(1)), block(1), generator.choice((3.0, 12.0, 40.0)), now)
        open_calls = [call for each in slot.calls.values() for call in each]
        if open_calls and generator.random() < 0.4:
            value = None if slot.ready else FACTS
            assert list(pool.answered(open_calls[0].number, value, now))
    assert min(noticed, pinged) > 20


def test_a_lane_that_is_silent_for_too_long_is_told_though_the_other_goes_on():
    pool, outbox = made(lanes=2)
    late = ask(pool, outbox, block(1), patience=1.5)
    ask(pool, outbox, block(1))
    answer(pool, ask(pool, outbox, block(2)))
    assert pool.overdue(NOW + 1) == []
    [(slot, lane, call)] = pool.overdue(NOW + 2)
    assert (slot.slot, call.number) == (WORKER, late)
    assert pool.at_work_on(slot, lane) == block(1)


@pytest.mark.parametrize("state", [Absent(NOW + 4), GivenUp("it cannot be made")])
def test_calls_are_forgotten_with_their_incarnation(state):
    pool, outbox = made()
    number = ask(pool, outbox, block(1))
    pool.end(pool.slots[WORKER], state)
    assert isinstance(outbox[-1], KillActor)
    assert answer(pool, number, "late") == []
    assert pool.at_work_on(pool.slots[WORKER]) is None


def test_the_next_incarnation_waits_for_the_end_of_the_back_off():
    pool, _ = made()
    pool.end(pool.slots[WORKER], Absent(retry_at=NOW + 4))
    pool.start_absent(NOW + 3)
    assert pool.slots[WORKER].incarnation == 1
    pool.start_absent(NOW + 4)
    assert pool.slots[WORKER].incarnation == 2


def test_a_slot_that_is_given_up_is_never_started_again():
    pool, _ = made()
    pool.end(pool.slots[WORKER], GivenUp("it cannot be made"))
    pool.start_absent(NOW + 1e6)
    assert pool.slots[WORKER].incarnation == 1


def test_workers_of_leaving_nodes_are_known_by_where_they_are():
    pool, _ = made()
    pool.nodes_leaving(frozenset({"another node"}))
    assert pool.leaving() == []
    pool.nodes_leaving(frozenset({"node"}))
    assert [each.slot for each in pool.leaving()] == [WORKER]
