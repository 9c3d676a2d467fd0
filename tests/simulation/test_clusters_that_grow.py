"""Clusters that grow, shrink and lose machines: a run uses what is there, and its bits do not depend on it."""

import pytest
from scripted_runs import FIRST, SECOND, START_SECONDS, ScriptedRun, check_whole

from noprop_dist.engines.core import commands as c
from noprop_dist.records import News, RoundDone, RunEnded, SnapshotWritten, WorkerLost, WorkerReady
from noprop_dist.stages import CLASSIFIER, block

LONG = "training.max_steps=480"


def workers_of(run):
    return {record.worker for record in run.records_of(RoundDone)} - {"classifier worker"}


# Growing


def test_a_run_on_no_machine_asks_for_one_a_block_and_trains_on_what_comes():
    run = ScriptedRun(LONG, "engine.move_after_seconds=1", cores=0, most_nodes=3)
    check_whole(run, run.train())
    assert len(run.cluster.nodes) == 3
    assert len(workers_of(run)) >= 2


def test_a_run_begins_on_the_machine_that_is_there_and_the_others_take_blocks_once_they_come():
    run = ScriptedRun("training.max_steps=4800", cores=1, most_nodes=3)
    check_whole(run, run.train())
    first = [record for record in run.records_of(RoundDone) if record.stage.is_block][:3]
    assert {record.worker for record in first} == {"block worker 1"}
    assert workers_of(run) == {"block worker 1", "block worker 2", "block worker 3"}


def test_a_worker_that_comes_trains_within_a_second_or_two():
    run = ScriptedRun("training.max_steps=4800", cores=1)
    for seconds in (31, 62):  # at other times than moves are planned at anyway
        run.at(seconds, lambda: run.grow(1))
    check_whole(run, run.train())
    for worker in ("block worker 2", "block worker 3"):
        ready = min(record.time for record in run.records_of(WorkerReady) if record.worker == worker)
        trained = min(record.time for record in run.records_of(RoundDone) if record.worker == worker)
        assert trained - ready < 2.5


def test_a_cluster_that_does_not_grow_is_asked_for_no_more_than_it_has():
    run = ScriptedRun(cores=2)
    check_whole(run, run.train())
    assert {each.process.slot for each in run.seen if isinstance(each, c.StartActor)} == {
        *(FIRST, SECOND),
        *(c.CLASSIFIER_WORKER, c.EVALUATOR),
    }


def test_a_run_waits_for_the_least_number_of_workers_and_says_so():
    run, said = ScriptedRun("engine.workers={min: 2}", cores=1), []
    run.at(20, lambda: said.append(run.waits_for()))
    run.at(30, lambda: run.grow(1))
    check_whole(run, run.train())
    assert said[0].startswith("1 of 2 block workers are there, after 20 s: 1 asked for")
    ready = [record.time for record in run.records_of(WorkerReady) if record.worker == "block worker 2"]
    assert min(record.time for record in run.records_of(RoundDone) if record.stage.is_block) > ready[0]


def test_a_run_that_never_gets_its_least_number_of_workers_ends_with_a_sentence():
    run = ScriptedRun("engine.workers={min: 3}", "engine.start_timeout_seconds=60", cores=2)
    assert (
        "only 2 of engine.workers.min=3 block workers started within engine.start_timeout_seconds=60"
        in run.train().error
    )


# Giving back


def test_workers_for_which_no_block_is_left_are_ended_and_nothing_more_is_asked_for():
    run, left = ScriptedRun(cores=1, most_nodes=3), []
    run.pace(FIRST, 0.05)
    run.at(START_SECONDS + 4, lambda: left.extend(run.core._workers._wanted))
    check_whole(run, run.train())
    killed = [each.process.slot for each in run.seen if isinstance(each, c.KillActor)]
    assert c.Slot("block worker", 3) in killed, "one that had no room is not asked for any more"


def test_a_machine_that_is_replaced_before_it_is_missed_leaves_no_worker_that_waits_for_room_for_ever():
    run = ScriptedRun("training.max_steps=4800", "engine.move_after_seconds=10", cores=2)
    waiting = []

    def lose_and_replace():
        run.cluster.lose_node(run.cluster.nodes["node-2"], told=5.0)
        run.grow(1)

    run.at(START_SECONDS + 1, lose_and_replace)
    run.at(60, lambda: waiting.extend(run.cluster.waiting))
    check_whole(run, run.train())
    assert waiting == []


# Machines that go


@pytest.mark.parametrize("number", [1, 2])
def test_every_actor_leaves_a_machine_that_is_about_to_go(number):
    run = ScriptedRun(LONG, cores=2)
    run.at(START_SECONDS + 3, lambda: run.leave(number))
    run.at(START_SECONDS + 4, lambda: run.grow(1))
    run.at(START_SECONDS + 20, lambda: run.cluster.lose_node(run.cluster.nodes[f"node-{number}"]))
    check_whole(run, run.train())
    assert {record.reason for record in run.records_of(WorkerLost)} == {"node_leaving"}
    lost = {record.worker for record in run.records_of(WorkerLost)}
    there = {r.worker for r in run.records_of(WorkerReady) if r.node_id == f"node-{number}" and r.incarnation == 1}
    assert lost == there


def test_a_round_that_takes_longer_than_the_notice_is_cut_short_and_no_step_is_done_twice():
    run = ScriptedRun("engine.round_steps=16", "engine.move_after_seconds=1e6", "checkpoint.snapshot_every_steps=48")
    run.pace(SECOND, 2.0)
    run.at(START_SECONDS + 5, lambda: run.leave(2))
    run.at(START_SECONDS + 12, lambda: run.cluster.lose_node(run.cluster.nodes["node-2"]))
    check_whole(run, run.train())
    assert [record.reason for record in run.records_of(WorkerLost)] == ["node_leaving"]
    cut = next(record for record in run.records_of(RoundDone) if record.worker == SECOND.name)
    assert cut.steps < 16
    done = [record for record in run.records_of(RoundDone) if record.stage == cut.stage]
    assert [record.first_step for record in done[1:]] == [record.step for record in done[:-1]]


def test_machines_that_go_cost_no_failure_budget():
    run = ScriptedRun(LONG, "engine.max_failures=0", cores=3)
    for number in (2, 3):
        run.at(START_SECONDS + number, lambda n=number: run.cluster.lose_node(run.cluster.nodes[f"node-{n}"], told=1.0))
    check_whole(run, run.train())
    assert {record.reason for record in run.records_of(WorkerLost)} == {"node_died"}


def test_how_many_machines_may_go_can_be_bounded():
    run = ScriptedRun(LONG, "engine.max_preemption_failures=0", cores=3)
    run.at(START_SECONDS + 1, lambda: run.cluster.lose_node(run.cluster.nodes["node-2"], told=1.0))
    assert "engine.max_preemption_failures=0 are allowed" in run.train().error


def test_a_coordinator_whose_machine_goes_saves_all_and_another_one_goes_on_without_losing_a_step():
    run = ScriptedRun(LONG, "engine.max_failures=0")
    reached = {}

    def drain():
        reached.update({stage: each.queue.steps_done for stage, each in run.core.stages.items()})
        run.coordinator.node_leaves = True

    run.at(START_SECONDS + 8, drain)
    result = run.drive()
    assert result.error is None
    assert run.coordinators == 2
    assert len(run.records_of(RunEnded)) == 1
    done = {stage: [r for r in run.records_of(RoundDone) if r.stage == stage] for stage in (*map(block, (1, 2, 3)),)}
    for stage, rounds in done.items():
        assert [record.first_step for record in rounds[1:]] == [record.step for record in rounds[:-1]], (
            "no step is done twice"
        )
        assert any(each.stage == stage and each.step > reached[stage] for each in run.records_of(SnapshotWritten))
    assert run.fingerprints() == run.expected.fingerprints(480)
    assert CLASSIFIER in run.newest()


def test_a_worker_that_was_out_of_memory_is_not_put_on_the_same_machine_again():
    run = ScriptedRun(LONG, cores=3)
    run.at(START_SECONDS + 1, lambda: run.actor(FIRST).die("no memory", 0.0, "out_of_memory"))
    check_whole(run, run.train())
    asked = [each for each in run.seen if isinstance(each, c.StartActor) and each.process.slot == FIRST]
    ready = [record.node_id for record in run.records_of(WorkerReady) if record.worker == FIRST.name]
    assert [each.avoided_node for each in asked] == ["", ready[0]]


def test_a_worker_on_another_kind_of_device_is_told():
    run = ScriptedRun(LONG, cores=3)
    run.cluster.nodes["node-3"].processor = "x86_64 DEFAULT"
    check_whole(run, run.train())
    (told,) = (each.text for each in run.records_of(News) if "another kind of device" in each.text)
    assert told.startswith("block worker 3 computes on another kind of device (x86_64 DEFAULT) than those before (")
