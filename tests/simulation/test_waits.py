"""No wait of the core is silent, and none is without end."""

from hashing import HashingWorld, sequentially, small_plan
from world import START_SECONDS

from noprop_dist.engines.core.commands import EVALUATOR, Ping, Slot
from noprop_dist.engines.core.events import ActorLost
from noprop_dist.records import Evaluated, News, RoundDone, WorkerLost
from noprop_dist.stages import CLASSIFIER

FIRST, SECOND = Slot("block worker", 1), Slot("block worker", 2)


def test_a_run_whose_workers_are_all_gone_says_so_and_ends_with_everything_saved():
    world, said = HashingWorld(small_plan("engine.worker_timeout_seconds=60")), []

    def nobody_comes_back():
        world.no_room_for |= {FIRST, SECOND}
        return [*world.kill(FIRST), *world.kill(SECOND)]

    world.at(START_SECONDS + 1.3, nobody_comes_back)
    world.at(START_SECONDS + 11.4, lambda: said.append(world.run.progress(world.now).waits_for))
    end = world.train()
    assert "no block worker was there for engine.worker_timeout_seconds=60" in end.error
    assert said[0].startswith("no block worker is there for 10 s: 2 asked for")
    assert world.steps_written()[CLASSIFIER] == 48, "what can go on without the blocks goes on"


def test_a_run_that_goes_on_while_all_machines_are_gone_waits_for_them_and_gets_its_workers():
    world, said = HashingWorld(small_plan("engine.start_timeout_seconds=20"), cores=0), []
    world.at(50.1, lambda: said.append(world.run.progress(world.now).waits_for))
    world.at(60, lambda: setattr(world, "cores", 2))
    assert world.train().error is None
    assert said == ["no block worker is there for 50 s: no machine is here now, and the run waits for one"]
    assert {r.worker for r in world.records_of(RoundDone) if r.stage.is_block} == {FIRST.name, SECOND.name}
    assert world.fingerprints() == sequentially(small_plan())


def test_a_run_that_goes_on_waits_for_machines_for_the_time_that_is_set():
    world = HashingWorld(small_plan("engine.worker_timeout_seconds=60"), cores=0)
    end = world.train()
    assert "no block worker was there for engine.worker_timeout_seconds=60: no machine is here now" in end.error
    assert world.steps_written()[CLASSIFIER] == 48


def test_nothing_is_waited_for_while_a_block_worker_is_there():
    world, said = HashingWorld(small_plan()), []
    for seconds in (0.5, START_SECONDS + 1):
        world.at(seconds, lambda: said.append(world.run.progress(world.now).waits_for))
    world.train()
    assert "no block worker is there" in said[0]
    assert said[1] is None


def test_the_run_does_not_wait_for_an_evaluator_that_never_comes():
    """What completes after the evaluator was given up is left out at once."""
    world = HashingWorld(small_plan())

    def never():
        process = next(process for process in world.processes if process.slot == EVALUATOR)
        return [ActorLost(process, "ImportError", constructor_raised=True)]

    world.at(START_SECONDS + 0.5, never)
    assert world.train().error is None
    news = [r.text for r in world.records_of(News)]
    assert "the checkpoint of step 48 was not measured; `noprop-dist evaluate` can" in news


def test_checkpoints_that_wait_for_a_slow_evaluator_are_bounded_and_the_last_is_measured():
    world = HashingWorld(small_plan("training.max_steps=400", "checkpoint.every_steps=4"))
    world.evaluation_seconds = 3.0
    assert world.train().error is None
    measured = [r.step for r in world.records_of(Evaluated)]
    left_out = [r.text for r in world.records_of(News) if "was not measured" in r.text]
    assert measured[-1] == 400
    assert len(measured) + len(left_out) == 100
    assert left_out


def test_a_process_that_is_stuck_before_its_first_round_is_done_is_replaced_soon():
    """Its round may take `engine.stall_timeout_seconds`; that its process is stuck is known sooner."""
    world = HashingWorld(small_plan("engine.hang_seconds=4"))
    world.step_seconds[FIRST] = 1.0
    world.at(START_SECONDS + 0.5, lambda: world.hang(FIRST))
    begun = world.now
    assert world.train().error is None
    lost = world.records_of(WorkerLost)
    assert [(each.worker, each.reason) for each in lost] == [(FIRST.name, "hung")]
    assert lost[0].at_work_on is not None, "the loss is charged to the stage that it was at work on"
    assert world.now - begun < 100


def test_a_first_round_may_take_its_time():
    world = HashingWorld(small_plan("engine.hang_seconds=4"))
    world.step_seconds[FIRST] = 60.0
    world.at(START_SECONDS + 30, world.step_seconds.clear)  # its second round is as fast as any
    assert world.train().error is None
    assert world.records_of(WorkerLost) == []
    assert world.calls_of(Ping), "it was asked whether it is there"


def test_nobody_is_pinged_while_rounds_come_in():
    world = HashingWorld(small_plan())
    world.train()
    assert world.calls_of(Ping) == []
