"""Whole runs of the core on virtual time: what is lost comes back, and ends with the fingerprints of the algorithm."""

import random
import time
from collections import Counter

import pytest
from hashing import LEARNED, HashingWorld, sequentially, small_plan
from world import START_SECONDS

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.commands import CLASSIFIER_WORKER, EVALUATOR, Slot
from noprop_dist.records import Evaluated, News, RoundDone, StageFailed, StageRecovered, WorkerLost
from noprop_dist.stages import CLASSIFIER, block

FIRST, SECOND = Slot("block worker", 1), Slot("block worker", 2)
EMBEDDINGS = pytest.mark.parametrize("embedding", ["embedding={kind: onehot}", LEARNED], ids=["fixed", "learned"])


@pytest.fixture(scope="module")
def fingerprints():
    """Of the runs that `small_plan` gives without further settings."""
    return sequentially(small_plan())


def check_whole(world, end, expected=None):
    """A run came to its end, every step counts once, and no bit differs."""
    total = world.plan.total_steps
    assert (end.step, end.error, end.stopped) == (total, None, False)
    assert world.fingerprints() == (sequentially(world.plan) if expected is None else expected)
    assert world.steps_written() == dict.fromkeys(world.plan.stages, total), "every step is written once"


def test_a_whole_run_with_a_lost_worker_takes_less_than_a_tenth_of_a_second(fingerprints):
    plan = small_plan()
    began = time.process_time()
    world = HashingWorld(plan)
    world.at(START_SECONDS + 1.3, lambda: world.kill(FIRST))
    end = world.train()
    assert time.process_time() - began < 0.1
    check_whole(world, end, fingerprints)
    assert {r.stage for r in world.records_of(StageRecovered)} <= {block(1), block(2)}


# Where blocks are trained, and in what portions


@EMBEDDINGS
@pytest.mark.parametrize(
    "settings",
    [
        ["engine.workers=1", "engine.round_steps=1"],
        ["engine.workers=1", "engine.round_steps=32", "engine.prefetch=1"],
        ["engine.workers=2", "engine.round_steps=7", "engine.prefetch=1"],
        ["engine.workers=3", "engine.round_steps=5", "engine.prefetch=3"],
        ["engine.workers=3", "engine.blocks_per_worker=1"],
        ["engine.workers=1", "engine.blocks_at_once=2", "engine.round_steps=3"],
        ["engine.workers=2", "engine.blocks_at_once=8"],
        ["checkpoint.snapshot_every_steps=1", "checkpoint.every_steps=48"],
        ["blocks.count=11", "engine.workers=4"],
        ["training.max_steps=47", "checkpoint.every_steps=13"],
    ],
    ids=lambda settings: " ".join(each.partition(".")[2] for each in settings),
)
def test_placement_rounds_and_prefetch_change_no_bit(embedding, settings):
    world = HashingWorld(small_plan(embedding, *settings), cores=4)
    check_whole(world, world.train())


def test_more_blocks_than_workers_may_hold_are_trained_in_waves():
    world = HashingWorld(small_plan("blocks.count=11", "engine.blocks_per_worker=2", "engine.workers=2"))
    check_whole(world, world.train())
    held, most = Counter(), Counter()
    for call in world.calls_of(c.Hold | c.Release):
        held[call.process.slot] += 1 if isinstance(call.request, c.Hold) else -1
        most[call.process.slot] = max(most[call.process.slot], held[call.process.slot])
    assert (most[FIRST], most[SECOND]) == (2, 2)


def test_a_hundred_blocks_are_trained_in_waves_on_one_worker():
    world = HashingWorld(small_plan("blocks.count=100", "engine.blocks_per_worker=7", "engine.workers=1"))
    check_whole(world, world.train())


def test_blocks_of_one_worker_are_trained_in_lanes_side_by_side_and_are_all_recovered_with_it():
    world = HashingWorld(small_plan("engine.workers=1", "engine.blocks_at_once=3"))
    world.at(START_SECONDS + 1, lambda: world.kill(FIRST))
    check_whole(world, world.train())
    assert {each.stage for each in world.records_of(StageRecovered)} == {block(1), block(2), block(3)}
    assert {(call.request.round.stage.index, call.lane) for call in world.calls_of(c.Train)} == {
        *((1, "lane-1"), (2, "lane-2"), (3, "lane-0")),
        (0, "main"),
    }


def test_single_blocks_can_be_trained_and_are_those_of_the_whole_network(fingerprints):
    world = HashingWorld(small_plan("blocks.only=[3]"))
    check_whole(world, world.train(), {stage: fingerprints[stage] for stage in (block(3), CLASSIFIER)})
    assert world.records_of(Evaluated) == [], "half a network has no accuracy"


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_rounds_in_flight_are_bounded_by_prefetch(prefetch):
    world, in_flight, most = (
        HashingWorld(small_plan(f"engine.prefetch={prefetch}", "engine.round_steps=1")),
        Counter(),
        0,
    )
    world.train()
    for command in world.seen:
        match command:
            case c.CallActor(request=c.Train(key)):
                in_flight[key.stage] += 1
                most = max(most, in_flight[key.stage])
            case c.Log(RoundDone(stage=stage)):
                in_flight[stage] -= 1
    assert most == prefetch


def test_no_stage_waits_for_another_where_w_embed_is_fixed(fingerprints):
    """Without barriers a fast worker is done while a slow one has hardly begun."""
    world = HashingWorld(small_plan("engine.move_after_seconds=1e6"))
    world.step_seconds = {SECOND: 0.2}
    check_whole(world, world.train(), fingerprints)
    *_, last_of_1 = (n for n, r in enumerate(world.records_of(RoundDone)) if r.stage == block(1))
    slow_steps = max(r.step for r in world.records_of(RoundDone)[:last_of_1] if r.stage == block(3))
    assert slow_steps < 24


def test_no_stage_is_ahead_of_another_by_more_than_a_version_of_a_learned_w_embed():
    world = HashingWorld(small_plan(LEARNED, "engine.round_steps=1", "engine.prefetch=5"))
    world.step_seconds = {SECOND: 0.5}
    check_whole(world, world.train())
    done = Counter()
    for each in world.records_of(RoundDone):
        done[each.stage] = each.step
        assert each.step <= min(done[stage] for stage in (*map(block, (1, 2, 3)), CLASSIFIER)) // 4 * 4 + 4


# What is lost


@EMBEDDINGS
@pytest.mark.parametrize("slot", [FIRST, SECOND, CLASSIFIER_WORKER, EVALUATOR], ids=lambda slot: slot.name)
@pytest.mark.parametrize("seconds", [2.0, START_SECONDS, 5.9, 6.35, 8.0])
def test_whoever_is_lost_whenever_it_is_the_fingerprints_are_those_of_the_algorithm(embedding, slot, seconds):
    world = HashingWorld(small_plan(embedding))
    world.at(seconds, lambda: world.kill(slot))
    check_whole(world, world.train())
    assert [r.worker for r in world.records_of(WorkerLost)] == [slot.name]
    assert [r.step for r in world.records_of(Evaluated)] == [16, 32, 48]


@pytest.mark.parametrize("seed", range(40))
def test_a_run_in_which_everything_is_lost_again_and_again(seed):
    """A seeded campaign: processes die, hang and are slow, nodes come and go, the disk is full for a while."""
    luck, world = random.Random(seed), None
    embedding = luck.choice(["embedding={kind: onehot}", LEARNED])
    stays = [embedding, f"blocks.count={luck.choice([1, 3, 7])}", "training.max_steps=160"]
    if embedding != LEARNED:  # which takes all blocks at once
        stays.append(f"engine.blocks_per_worker={luck.choice([1, 3, 'null'])}")
    for lives in reversed(range(luck.choice([1, 1, 2, 3]))):
        world = HashingWorld(small_plan(*stays, *any_engine(luck)), luck.randint(1, 3), before=world)
        for _ in range(10):
            world.at(luck.uniform(0, 50), lambda world=world: something_breaks(world, luck))
        if lives > 0:
            world.train(luck.uniform(0, 30))
    check_whole(world, world.train())


def any_engine(luck):
    return [
        f"engine.workers={luck.choice([1, 2, 3, 'auto'])}",
        f"engine.round_steps={luck.choice([1, 4, 9])}",
        f"engine.prefetch={luck.choice([1, 2])}",
        f"engine.blocks_at_once={luck.choice([1, 3])}",
        f"checkpoint.snapshot_every_steps={luck.choice([4, 8, 100])}",
        *("engine.max_failures=-1", "engine.hang_seconds=15"),
    ]


def something_breaks(world, luck):
    slots = [process.slot for process in world.processes]
    what = luck.choices(["death", "hang", "slowness", "full disk", "leaving node", "cores"], [6, 1, 1, 1, 1, 1])[0]
    match what:
        case "death" if slots:
            return world.kill(luck.choice(slots))
        case "hang" if slots:
            world.hang(luck.choice(slots))
        case "slowness" if slots:
            world.step_seconds = {luck.choice(slots): 10 ** luck.uniform(-2, 0)}
        case "full disk":
            world.store_fails = True
            world.at(luck.uniform(0, 20), lambda: setattr(world, "store_fails", False))
        case "leaving node":
            world.leaving_nodes = frozenset({f"node-{luck.randint(1, 3)}"})
            world.at(luck.uniform(0, 20), lambda: setattr(world, "leaving_nodes", frozenset()))
        case "cores":
            world.cores = luck.randint(1, 4)
    return []


def test_a_worker_that_hangs_is_killed_and_its_stages_go_on(fingerprints):
    world = HashingWorld(small_plan("engine.hang_seconds=20"))
    world.at(START_SECONDS + 2, lambda: world.hang(SECOND))
    check_whole(world, world.train(), fingerprints)
    assert [(r.worker, r.reason) for r in world.records_of(WorkerLost)] == [("block worker 2", "hung")]


def test_a_worker_whose_steps_are_long_is_not_taken_for_one_that_hangs(fingerprints):
    world = HashingWorld(small_plan("engine.hang_seconds=20", "engine.round_steps=1", "engine.workers=1"))
    world.step_seconds = {FIRST: 19.0}
    check_whole(world, world.train(), fingerprints)
    assert world.records_of(WorkerLost) == []


def test_a_block_that_loses_worker_after_worker_is_stopped_and_the_others_are_trained_to_the_end():
    world = HashingWorld(small_plan("engine.max_failures=2", "engine.workers=3"), cores=3)
    third = Slot("block worker", 3)

    def kill_whenever_it_trains_block_3():
        world.at(START_SECONDS + 0.3, kill_whenever_it_trains_block_3)
        return world.kill(third) if world.run.stages[block(3)].worker == third else []

    world.at(START_SECONDS + 0.3, kill_whenever_it_trains_block_3)
    assert "not trained to the end: block 3 (3 workers were lost while at work on it" in world.train().error
    others = {stage: steps for stage, steps in world.steps_written().items() if stage != block(3)}
    assert others == {block(1): 48, block(2): 48, CLASSIFIER: 48}


def test_a_stage_that_raises_is_named_and_the_others_are_trained_to_the_end(fingerprints):
    world = HashingWorld(small_plan(), raise_at={block(2): 21})
    assert world.train().error == (
        "not trained to the end: block 2 (OverflowError: the soup boiled over, in the round from step 20); "
        "all else is trained and saved"
    )
    newest = {stage: each.step for stage, each in world.saved.newest().items()}
    assert newest == {block(1): 48, block(2): 16, block(3): 48, CLASSIFIER: 48}
    assert world.records_of(WorkerLost) == [], "its worker lives, and so do the worker's other stages"
    (failure,) = world.records_of(StageFailed)
    assert (failure.stage, failure.step, failure.trace) == (block(2), 21, "Trace")
    others = {stage: each for stage, each in fingerprints.items() if stage != block(2)}
    assert {stage: world.saved.newest()[stage].fingerprint() for stage in others} == others


def test_where_w_embed_is_learned_a_stage_that_raises_ends_the_run_and_all_are_saved():
    """The others need its gradient."""
    world = HashingWorld(small_plan(LEARNED), raise_at={block(2): 21})
    error = world.train().error
    assert "not trained to the end: block 2 (OverflowError" in error
    assert error.endswith("no other stage can go on without its gradient of W_embed; all are saved")
    assert {each.step for each in world.saved.newest().values()} == {16}


def test_where_one_worker_never_starts_its_blocks_move_after_the_time_that_is_set(fingerprints):
    world = HashingWorld(small_plan("engine.move_after_seconds=10"))
    world.no_room_for.add(SECOND)
    check_whole(world, world.train(), fingerprints)
    assert {r.worker for r in world.records_of(RoundDone)} == {"block worker 1", "classifier worker"}
    first_of_3 = next(call for call in world.calls_of(c.Hold) if call.request.stage == block(3))
    assert first_of_3.process.slot == FIRST


def test_a_run_for_which_there_is_no_room_ends_with_a_sentence():
    world = HashingWorld(small_plan("engine.start_timeout_seconds=30"))
    world.no_room_for |= {FIRST, SECOND}
    assert "no block worker started within engine.start_timeout_seconds=30" in world.train().error


# Blocks that move


def test_blocks_of_a_node_that_leaves_go_to_another_worker_at_once_and_no_step_is_done_twice(fingerprints):
    world = HashingWorld(small_plan("engine.move_after_seconds=1e6"))

    def leave():
        world.leaving_nodes = frozenset({"node-2"})
        world.no_room_for.add(SECOND)

    world.at(START_SECONDS + 1, leave)
    check_whole(world, world.train(), fingerprints)
    assert [(r.worker, r.reason) for r in world.records_of(WorkerLost)] == [("block worker 2", "node_leaving")]
    trained = [(r.stage, r.worker) for r in world.records_of(RoundDone)]
    assert {worker for stage, worker in trained if stage == block(3)} == {"block worker 1", "block worker 2"}
    sent = Counter(
        call.request.round.first_step for call in world.calls_of(c.Train) if call.request.round.stage == block(3)
    )
    assert set(sent.values()) == {1}, "it went on where it stood"


def test_a_cluster_that_grows_gets_more_workers_and_they_get_blocks():
    world = HashingWorld(small_plan("training.max_steps=4000", "checkpoint.every_steps=2000", "engine.round_steps=100",
                                    "checkpoint.snapshot_every_steps=100"), cores=1)  # fmt: skip
    world.at(START_SECONDS + 5, lambda: setattr(world, "cores", 3))
    check_whole(world, world.train())
    workers = {r.worker for r in world.records_of(RoundDone) if r.stage.is_block}
    assert workers == {"block worker 1", "block worker 2", "block worker 3"}
    news = [r.text for r in world.records_of(News)]
    assert any("the cluster has grown: 3 block(s) on 3 worker(s)" in text for text in news)
    assert any("moves from block worker 1 to block worker" in text for text in news)


def test_a_slow_worker_gives_blocks_to_one_that_has_nothing_left_to_do():
    world = HashingWorld(small_plan("training.max_steps=2000", "blocks.count=4", "checkpoint.every_steps=2000",
                                    "checkpoint.snapshot_every_steps=200"))  # fmt: skip
    world.step_seconds = {SECOND: 0.5}
    check_whole(world, world.train())
    moves = [r.text for r in world.records_of(News) if "moves from" in r.text]
    assert any(text.endswith("from block worker 2 to block worker 1") for text in moves)


# Stops, and processes that end


@EMBEDDINGS
@pytest.mark.parametrize("seconds", [1.0, START_SECONDS + 0.4, START_SECONDS + 1.1, START_SECONDS + 4.3])
def test_a_run_told_to_stop_goes_on_later_with_the_same_bits(embedding, seconds):
    plan = small_plan(embedding)
    world = HashingWorld(plan)
    world.at(seconds, world.stop)
    end = world.train()
    assert end.stopped
    assert end.error is None
    again = HashingWorld(plan, before=world)
    check_whole(again, again.train())


@pytest.mark.parametrize("seconds", [START_SECONDS + 0.05, START_SECONDS + 0.25, START_SECONDS + 1.1])
def test_a_run_told_to_stop_saves_every_stage_where_it_stands(seconds):
    world = HashingWorld(small_plan())
    world.at(seconds, world.stop)
    assert world.train().stopped
    newest = {stage: snapshot.step for stage, snapshot in world.saved.newest().items()}
    assert newest == dict(world.steps_written()), "no snapshot without the records of the steps that lead to it"


@pytest.mark.parametrize("seconds", [START_SECONDS + 0.07 * count for count in range(90, 110)])
def test_a_run_told_to_stop_while_a_stage_does_steps_again_counts_no_step_twice_and_none_too_few(seconds):
    world = HashingWorld(
        small_plan("engine.workers=1", "checkpoint.every_steps=48", "checkpoint.snapshot_every_steps=48")
    )
    world.at(START_SECONDS + 1.3, lambda: world.kill(FIRST))
    world.at(seconds, world.stop)
    assert world.train().stopped
    again = HashingWorld(world.plan, before=world)
    check_whole(again, again.train())


@EMBEDDINGS
@pytest.mark.parametrize("seconds", [START_SECONDS + 0.1 * tenths for tenths in range(1, 43, 6)])
def test_a_run_whose_coordinator_is_lost_goes_on_from_its_store_on_other_workers(embedding, seconds):
    world = HashingWorld(small_plan(embedding, "engine.round_steps=1"))
    assert world.train(seconds) is None
    again = HashingWorld(small_plan(embedding, "engine.workers=3", "engine.round_steps=7"), cores=3, before=world)
    check_whole(again, again.train())


def test_a_run_that_is_finished_has_nothing_left_to_do():
    world = HashingWorld(small_plan("evaluation.samples=0"))
    world.train()
    again = HashingWorld(world.plan, before=world)
    check_whole(again, again.train())
    assert again.calls_of(c.Train) == []


# Storage


def test_storage_that_fails_for_a_while_costs_nothing(fingerprints):
    world = HashingWorld(small_plan())
    world.at(START_SECONDS + 0.5, lambda: setattr(world, "store_fails", True))
    world.at(START_SECONDS + 60, lambda: setattr(world, "store_fails", False))
    check_whole(world, world.train(), fingerprints)
    news = [r.text for r in world.records_of(News)]
    assert any("cannot be written: no space left on device" in text for text in news)
    assert "the run directory can be written again" in news


def test_storage_that_does_not_answer_is_told_and_waited_for(fingerprints):
    world = HashingWorld(small_plan())
    world.at(START_SECONDS + 0.5, lambda: setattr(world, "store_seconds", 60))
    world.at(START_SECONDS + 5, lambda: setattr(world, "store_seconds", 0.01))
    check_whole(world, world.train(), fingerprints)
    told = [r.text for r in world.records_of(News) if "has not answered for 10 s" in r.text]
    assert len(told) == 1


def test_storage_that_never_answers_ends_the_run_after_the_time_that_is_set():
    world = HashingWorld(small_plan("checkpoint.storage_timeout_seconds=100"))
    world.store_seconds = 10_000
    assert "did not answer for checkpoint.storage_timeout_seconds=100" in world.train().error


def test_storage_that_fails_for_good_ends_the_run_after_the_time_that_is_set():
    world = HashingWorld(small_plan("checkpoint.storage_timeout_seconds=100"))
    world.store_fails = True
    assert "could not be written for checkpoint.storage_timeout_seconds=100" in world.train().error
