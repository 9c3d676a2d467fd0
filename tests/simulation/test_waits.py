"""No wait of the core is silent, and none is without end."""

from scripted_runs import START_SECONDS, ScriptedRun

from noprop_dist.engines.core.commands import EVALUATOR, Ping, Slot
from noprop_dist.records import Evaluated, News, RoundDone, WorkerLost
from noprop_dist.stages import CLASSIFIER

FIRST, SECOND = Slot("block worker", 1), Slot("block worker", 2)


def test_a_run_whose_workers_are_all_gone_says_so_and_ends_with_everything_saved():
    run, said = ScriptedRun("engine.worker_timeout_seconds=60"), []

    def nobody_comes_back():
        run.occupy(1, 2)
        run.kill(FIRST)
        run.kill(SECOND)

    run.at(START_SECONDS + 1.3, nobody_comes_back)
    run.at(START_SECONDS + 11.4, lambda: said.append(run.waits_for()))
    end = run.train()
    assert "no block worker was there for engine.worker_timeout_seconds=60" in end.error
    assert said[0].startswith("no block worker is there for 10 s: 2 asked for")
    assert run.steps_written()[CLASSIFIER] == 48, "what can go on without the blocks goes on"


def without_machines(*settings):
    """A run that has begun, and that goes on while all machines are gone."""
    run = ScriptedRun(*settings)
    assert run.train(START_SECONDS + 1) is None
    run.lose_nodes()
    return run


def test_a_run_that_goes_on_while_all_machines_are_gone_waits_for_them_and_gets_its_workers():
    run, said = without_machines("engine.start_timeout_seconds=20"), []
    run.at(50.1, lambda: said.append(run.waits_for()))
    run.at(60, lambda: run.grow(2))
    assert run.train().error is None
    assert said == ["no block worker is there for 50 s: no machine is here now, and the run waits for one"]
    assert {r.worker for r in run.records_of(RoundDone) if r.stage.is_block} == {FIRST.name, SECOND.name}
    assert run.fingerprints() == run.expected.fingerprints(48)


def test_a_run_that_goes_on_waits_for_machines_for_the_time_that_is_set():
    end = without_machines("engine.worker_timeout_seconds=60").train()
    assert "no block worker was there for engine.worker_timeout_seconds=60: no machine is here now" in end.error


def test_nothing_is_waited_for_while_a_block_worker_is_there():
    run, said = ScriptedRun(), []
    for seconds in (0.5, START_SECONDS + 1):
        run.at(seconds, lambda: said.append(run.waits_for()))
    run.train()
    assert "no block worker is there" in said[0]
    assert said[1] is None


def test_the_run_does_not_wait_for_an_evaluator_that_never_comes():
    """What completes after the evaluator was given up is left out at once."""
    run = ScriptedRun()
    run.cluster.broken_constructors[EVALUATOR] = True
    assert run.train().error is None
    news = [r.text for r in run.records_of(News)]
    assert "the checkpoint of step 48 was not measured; `noprop-dist evaluate` can" in news


def test_checkpoints_that_wait_for_a_slow_evaluator_are_bounded_and_the_last_is_measured():
    run = ScriptedRun("training.max_steps=400", "checkpoint.every_steps=4")
    run.cluster.evaluation_seconds = 3.0
    assert run.train().error is None
    measured = [r.step for r in run.records_of(Evaluated)]
    left_out = [r.text for r in run.records_of(News) if "was not measured" in r.text]
    assert measured[-1] == 400
    assert len(measured) + len(left_out) == 100
    assert left_out


def test_a_process_that_is_stuck_before_its_first_round_is_done_is_replaced_soon():
    """Its round may take `engine.stall_timeout_seconds`; that its process is stuck is known sooner."""
    run = ScriptedRun("engine.hang_seconds=4")
    run.pace(FIRST, 1.0)
    run.at(START_SECONDS + 0.5, lambda: run.hang(FIRST))
    begun = run.world.now
    assert run.train().error is None
    lost = run.records_of(WorkerLost)
    assert [(each.worker, each.reason) for each in lost] == [(FIRST.name, "hung")]
    assert lost[0].at_work_on is not None, "the loss is charged to the stage that it was at work on"
    assert run.world.now - begun < 100


def test_a_first_round_may_take_its_time():
    run = ScriptedRun("engine.hang_seconds=4")
    run.pace(FIRST, 60.0)
    run.at(START_SECONDS + 30, lambda: run.pace(FIRST))  # its second round is as fast as any
    assert run.train().error is None
    assert run.records_of(WorkerLost) == []
    assert run.calls_of(Ping), "it was asked whether it is there"


def test_nobody_is_pinged_while_rounds_come_in():
    run = ScriptedRun()
    run.train()
    assert run.calls_of(Ping) == []


# A driver and its coordinators


def test_a_coordinator_that_does_not_answer_any_more_is_told_of_and_another_one_goes_on():
    run = ScriptedRun("engine.coordinator_timeout_seconds=25")
    run.at(START_SECONDS + 1, run.pause_coordinator)
    end = run.drive()
    assert (end.step, end.error) == (48, None)
    assert run.coordinators == 2
    assert any("the coordinator has not answered for" in line and "it has 25 s" in line for line in run.said)
    assert any("it did not answer for 25 s" in line for line in run.said)
    assert run.fingerprints() == run.expected.fingerprints(48)


def test_a_coordinator_that_takes_long_to_start_is_told_of():
    run = ScriptedRun()
    run.world.at(0.001, run.pause_coordinator)
    run.world.at(20, run.continue_coordinator)
    assert run.drive().error is None
    assert run.coordinators == 1
    assert any("the coordinator's process has been starting for" in line for line in run.said)


def test_a_stop_that_the_coordinator_does_not_carry_out_ends_with_a_sentence():
    run = ScriptedRun("engine.grace_seconds=20", "engine.coordinator_timeout_seconds=1000")

    def stop_what_is_stuck():
        run.driver.stop = True
        run.pause_coordinator()

    run.at(START_SECONDS + 1, stop_what_is_stuck)
    assert run.drive().startswith("the coordinator did not end within engine.grace_seconds=")
