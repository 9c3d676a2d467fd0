"""Whole runs of the core on virtual time: what is lost comes back, and ends with the fingerprints of a quiet run."""

import time
from collections import Counter

import pytest
from world import START_SECONDS, World, fingerprints, small_plan

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.commands import CLASSIFIER_WORKER, EVALUATOR, Slot
from noprop_dist.engines.core.events import ActorLost
from noprop_dist.records import Evaluated, News, RoundDone, StageRecovered, WorkerLost
from noprop_dist.stages import CLASSIFIER, block

FIRST, SECOND = Slot("block worker", 1), Slot("block worker", 2)


@pytest.fixture(scope="module")
def undisturbed():
    world = World(small_plan())
    assert world.train().error is None
    return fingerprints(world)


def steps_written(world):
    done = Counter()
    for record in world.records:
        if isinstance(record, RoundDone):
            done[record.stage] += record.steps
    return done


def test_a_whole_run_with_a_lost_worker_takes_less_than_a_tenth_of_a_second(undisturbed):
    plan = small_plan()
    began = time.perf_counter()
    world = World(plan)
    world.at(START_SECONDS + 1.3, lambda: world.kill(FIRST))
    end = world.train()
    assert time.perf_counter() - began < 0.1
    assert (end.step, end.error, end.stopped) == (48, None, False)
    assert fingerprints(world) == undisturbed
    assert set(steps_written(world).values()) == {48}, "every step is written once"
    assert {r.stage for r in world.records if isinstance(r, StageRecovered)} <= {block(1), block(2)}


@pytest.mark.parametrize("slot", [FIRST, SECOND, CLASSIFIER_WORKER, EVALUATOR], ids=lambda slot: slot.name)
@pytest.mark.parametrize("seconds", [2.0, START_SECONDS, 5.9, 6.35, 8.0])
def test_whoever_is_lost_whenever_it_is_the_fingerprints_are_those_of_a_quiet_run(undisturbed, slot, seconds):
    world = World(small_plan())
    world.at(seconds, lambda: world.kill(slot))
    assert world.train().error is None
    assert fingerprints(world) == undisturbed
    assert set(steps_written(world).values()) == {48}
    assert [r.step for r in world.records if isinstance(r, Evaluated)] == [16, 32, 48]


def test_a_worker_that_hangs_is_killed_and_its_stages_go_on(undisturbed):
    world = World(small_plan("engine.hang_seconds=20"))
    world.at(START_SECONDS + 2, lambda: world.hang(SECOND))
    assert world.train().error is None
    lost = [r for r in world.records if isinstance(r, WorkerLost)]
    assert [(r.worker, r.reason) for r in lost] == [("block worker 2", "hung")]
    assert fingerprints(world) == undisturbed


def test_a_block_that_loses_worker_after_worker_is_stopped_and_the_others_are_trained_to_the_end():
    world = World(small_plan("engine.max_failures=2", "engine.workers=3"), cores=3)
    third = Slot("block worker", 3)

    def kill_whenever_it_trains_block_3():
        world.at(START_SECONDS + 0.3, kill_whenever_it_trains_block_3)
        return world.kill(third) if world.run.stages[block(3)].worker == third else []

    world.at(START_SECONDS + 0.3, kill_whenever_it_trains_block_3)
    assert "not trained to the end: block 3 (3 workers were lost while at work on it" in world.train().error
    others = {stage: steps for stage, steps in steps_written(world).items() if stage != block(3)}
    assert others == {block(1): 48, block(2): 48, CLASSIFIER: 48}


def test_a_run_told_to_stop_saves_every_stage_where_it_stands():
    world = World(small_plan())
    world.at(START_SECONDS + 1.1, world.stop)
    end = world.train()
    assert end.stopped
    assert end.error is None
    newest = {stage: max(step for step, saved in world.saved.items() if stage in saved) for stage in world.plan.stages}
    assert newest == dict(steps_written(world)), "no snapshot without the records of the steps that lead to it"


def test_blocks_of_a_node_that_leaves_go_to_another_worker_at_once(undisturbed):
    world = World(small_plan())
    world.at(START_SECONDS + 1, lambda: setattr(world, "leaving_nodes", frozenset({"node-2"})))
    world.no_room_for.add(SECOND)
    world.at(0.0, world.no_room_for.clear)
    assert world.train().error is None
    assert fingerprints(world) == undisturbed


def test_where_one_worker_never_starts_its_blocks_move_after_the_time_that_is_set(undisturbed):
    world = World(small_plan("engine.move_after_seconds=10"))
    world.no_room_for.add(SECOND)
    assert world.train().error is None
    assert fingerprints(world) == undisturbed
    assert {r.worker for r in world.records if isinstance(r, RoundDone)} == {"block worker 1", "classifier worker"}


def test_a_run_for_which_there_is_no_room_ends_with_a_sentence():
    world = World(small_plan("engine.start_timeout_seconds=30"))
    world.no_room_for |= {FIRST, SECOND}
    assert "no block worker started within engine.start_timeout_seconds=30" in world.train().error


def test_storage_that_fails_for_a_while_costs_nothing(undisturbed):
    world = World(small_plan())
    world.at(START_SECONDS + 0.5, lambda: setattr(world, "store_fails", True))
    world.at(START_SECONDS + 60, lambda: setattr(world, "store_fails", False))
    assert world.train().error is None
    assert fingerprints(world) == undisturbed
    news = [r.text for r in world.records if isinstance(r, News)]
    assert any("cannot be written: no space left on device" in text for text in news)
    assert "the run directory can be written again" in news


def test_storage_that_fails_for_good_ends_the_run_after_the_time_that_is_set():
    world = World(small_plan("checkpoint.storage_timeout_seconds=100"))
    world.store_fails = True
    assert "could not be written for checkpoint.storage_timeout_seconds=100" in world.train().error


def test_a_cluster_that_grows_gets_more_workers_and_they_get_blocks(undisturbed):
    world = World(small_plan("training.max_steps=4000", "checkpoint.every_steps=2000", "engine.round_steps=100",
                             "checkpoint.snapshot_every_steps=100"), cores=1)  # fmt: skip
    world.at(START_SECONDS + 5, lambda: setattr(world, "cores", 3))
    assert world.train().error is None
    workers = {r.worker for r in world.records if isinstance(r, RoundDone) and r.stage.is_block}
    assert workers == {"block worker 1", "block worker 2", "block worker 3"}


def test_rounds_in_flight_are_bounded_by_prefetch():
    world, in_flight, most = World(small_plan("engine.prefetch=2")), Counter(), 0
    world.train()
    for command in world.seen:
        match command:
            case c.CallActor(request=c.Train(key)):
                in_flight[key.stage] += 1
                most = max(most, in_flight[key.stage])
            case c.Log(RoundDone(stage=stage)):
                in_flight[stage] -= 1
    assert most == 2


def test_a_run_whose_workers_are_all_gone_says_so_and_ends_with_everything_saved():
    world = World(small_plan("engine.worker_timeout_seconds=60"))

    def nobody_comes_back():
        world.no_room_for |= {FIRST, SECOND}
        return [*world.kill(FIRST), *world.kill(SECOND)]

    said = []
    world.at(START_SECONDS + 1.3, nobody_comes_back)
    world.at(START_SECONDS + 11.4, lambda: said.append(world.run.progress(world.now).waits_for))
    assert "no block worker was there for engine.worker_timeout_seconds=60" in world.train().error
    assert said[0].startswith("no block worker is there for 10 s: 2 asked for")
    newest = {stage: max(step for step, saved in world.saved.items() if stage in saved) for stage in world.plan.stages}
    assert newest[CLASSIFIER] == 48, "what can go on without the blocks goes on"


def test_nothing_is_waited_for_while_a_block_worker_is_there():
    world, said = World(small_plan()), []
    for seconds in (0.5, START_SECONDS + 1):
        world.at(seconds, lambda: said.append(world.run.progress(world.now).waits_for))
    world.train()
    assert "no block worker is there" in said[0]
    assert said[1] is None


def test_checkpoints_do_not_wait_for_an_evaluator_that_never_comes(undisturbed):
    """Nor does the run: what completes after the evaluator was given up is left out at once."""
    world = World(small_plan())
    world.at(START_SECONDS + 0.5, lambda: [ActorLost(evaluator(world), "ImportError", constructor_raised=True)])
    assert world.train().error is None
    assert fingerprints(world) == undisturbed
    news = [r.text for r in world.records if isinstance(r, News)]
    assert "the checkpoint of step 48 was not measured; `noprop-dist evaluate` can" in news
    pruned = [command.task.up_to for command in world.seen
              if isinstance(command, c.UseStorage) and isinstance(command.task, c.Prune)]  # fmt: skip
    assert pruned == [16, 32, 48]


def evaluator(world):
    return next(process for process in world.processes if process.slot == EVALUATOR)


def test_checkpoints_that_wait_for_a_slow_evaluator_are_bounded_and_the_last_is_measured():
    world = World(small_plan("training.max_steps=400", "checkpoint.every_steps=4"))
    seconds = world._seconds
    world._seconds = lambda request: 3.0 if isinstance(request, c.Evaluate) else seconds(request)
    assert world.train().error is None
    measured = [r.step for r in world.records if isinstance(r, Evaluated)]
    left_out = [r.text for r in world.records if isinstance(r, News) and "was not measured" in r.text]
    assert measured[-1] == 400
    assert len(measured) + len(left_out) == 100
    assert left_out
