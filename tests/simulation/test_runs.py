"""Whole runs of the core on virtual time: what is lost comes back, and ends with the fingerprints of the algorithm."""

import time
from collections import Counter

import pytest
from scripted_runs import FIRST, LEARNED, SECOND, START_SECONDS, ScriptedRun, check_whole

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.commands import CLASSIFIER_WORKER, EVALUATOR
from noprop_dist.records import Evaluated, News, RoundDone, SnapshotWritten, StageFailed, StageRecovered, WorkerLost
from noprop_dist.stages import CLASSIFIER, block

EMBEDDINGS = pytest.mark.parametrize("embedding", ["embedding={kind: onehot}", LEARNED], ids=["fixed", "learned"])


def test_a_whole_run_with_a_lost_worker_takes_a_fraction_of_a_second():
    taken = []
    for _ in range(3):  # the first one takes longer: it makes what is made once
        began, run = time.process_time(), ScriptedRun()
        run.at(START_SECONDS + 1.3, lambda run=run: run.kill(FIRST))
        end = run.train()
        taken.append(time.process_time() - began)
        check_whole(run, end)
        assert {r.stage for r in run.records_of(StageRecovered)} <= {block(1), block(2)}
    assert min(taken) < 0.5


def test_a_run_is_not_begun_anew_where_its_disk_is_away_before_any_block_has_trained():
    run = ScriptedRun()
    run.at(2.5, lambda: run.storage.take_away(8.0))
    run.at(2.5, run.lose_coordinator)
    end = run.drive()
    assert getattr(end, "step", end) == 48
    check_whole(run, end)


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
    run = ScriptedRun(embedding, *settings, cores=4)
    check_whole(run, run.train())


def test_more_blocks_than_workers_may_hold_are_trained_in_waves():
    run = ScriptedRun("blocks.count=11", "engine.blocks_per_worker=2", "engine.workers=2")
    check_whole(run, run.train())
    held, most = Counter(), Counter()
    for call in run.calls_of(c.Hold | c.Release):
        held[call.process.slot] += 1 if isinstance(call.request, c.Hold) else -1
        most[call.process.slot] = max(most[call.process.slot], held[call.process.slot])
    assert (most[FIRST], most[SECOND]) == (2, 2)


def test_a_hundred_blocks_are_trained_in_waves_on_one_worker():
    run = ScriptedRun("blocks.count=100", "engine.blocks_per_worker=7", "engine.workers=1")
    check_whole(run, run.train())


def test_blocks_of_one_worker_are_trained_in_lanes_side_by_side_and_are_all_recovered_with_it():
    run = ScriptedRun("engine.workers=1", "engine.blocks_at_once=3")
    run.at(START_SECONDS + 1, lambda: run.kill(FIRST))
    check_whole(run, run.train())
    assert {each.stage for each in run.records_of(StageRecovered)} == {block(1), block(2), block(3)}
    assert {(call.request.round.stage.index, call.lane) for call in run.calls_of(c.Train)} == {
        *((1, "lane-1"), (2, "lane-2"), (3, "lane-0")),
        (0, "main"),
    }


def test_single_blocks_can_be_trained_and_are_those_of_the_whole_network():
    run, whole = ScriptedRun("blocks.only=[3]"), ScriptedRun().expected.fingerprints(48)
    check_whole(run, run.train())
    assert run.fingerprints() == {stage: whole[stage] for stage in (block(3), CLASSIFIER)}
    assert run.records_of(Evaluated) == [], "half a network has no accuracy"


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_rounds_in_flight_are_bounded_by_prefetch(prefetch):
    run, in_flight, most = ScriptedRun(f"engine.prefetch={prefetch}", "engine.round_steps=1"), Counter(), 0
    run.train()
    for command in run.seen:
        match command:
            case c.CallActor(request=c.Train(key)):
                in_flight[key.stage] += 1
                most = max(most, in_flight[key.stage])
            case c.Log(RoundDone(stage=stage)):
                in_flight[stage] -= 1
    assert most == prefetch


def test_no_stage_waits_for_another_where_w_embed_is_fixed():
    """Without barriers a fast worker is done while a slow one has hardly begun."""
    run = ScriptedRun("engine.move_after_seconds=1e6")
    run.pace(SECOND, 0.2)
    check_whole(run, run.train())
    *_, last_of_1 = (n for n, r in enumerate(run.records_of(RoundDone)) if r.stage == block(1))
    slow_steps = max(r.step for r in run.records_of(RoundDone)[:last_of_1] if r.stage == block(3))
    assert slow_steps < 24


def test_no_stage_is_ahead_of_another_by_more_than_a_version_of_a_learned_w_embed():
    run = ScriptedRun(LEARNED, "engine.round_steps=1", "engine.prefetch=5")
    run.pace(SECOND, 0.5)
    check_whole(run, run.train())
    done = Counter()
    for each in run.records_of(RoundDone):
        done[each.stage] = each.step
        assert each.step <= min(done[stage] for stage in (*map(block, (1, 2, 3)), CLASSIFIER)) // 4 * 4 + 4


# What is lost


@EMBEDDINGS
@pytest.mark.parametrize("slot", [FIRST, SECOND, CLASSIFIER_WORKER, EVALUATOR], ids=lambda slot: slot.name)
@pytest.mark.parametrize("seconds", [2.0, START_SECONDS, 5.9, 6.35, 7.0])
def test_whoever_is_lost_whenever_it_is_the_fingerprints_are_those_of_the_algorithm(embedding, slot, seconds):
    run = ScriptedRun(embedding)
    run.at(seconds, lambda: run.kill(slot))
    check_whole(run, run.train())
    assert [r.worker for r in run.records_of(WorkerLost)] == [slot.name]
    assert [r.step for r in run.records_of(Evaluated)] == [16, 32, 48]


def test_the_death_of_a_worker_that_has_nothing_left_to_do_costs_nothing():
    """Nobody hears of it."""
    run = ScriptedRun("engine.move_after_seconds=1e6")
    run.at(START_SECONDS + 3, lambda: run.kill(FIRST))
    check_whole(run, run.train())
    assert run.records_of(WorkerLost) == []


def test_a_worker_that_hangs_is_killed_and_its_stages_go_on():
    run = ScriptedRun("engine.hang_seconds=20")
    run.at(START_SECONDS + 2, lambda: run.hang(SECOND))
    check_whole(run, run.train())
    assert [(r.worker, r.reason) for r in run.records_of(WorkerLost)] == [("block worker 2", "hung")]


def test_a_worker_whose_steps_are_long_is_not_taken_for_one_that_hangs():
    run = ScriptedRun("engine.hang_seconds=20", "engine.round_steps=1", "engine.workers=1")
    run.pace(FIRST, 19.0)
    check_whole(run, run.train())
    assert run.records_of(WorkerLost) == []


def test_a_block_that_loses_worker_after_worker_is_stopped_and_the_others_are_trained_to_the_end():
    run = ScriptedRun("engine.max_failures=2", "engine.workers=3", cores=3)

    def kill_what_trains_block_3():
        run.at(0.1, kill_what_trains_block_3)  # sooner than it comes to another snapshot
        if (worker := run.core.stages[block(3)].worker) is not None:
            run.kill(worker)

    run.at(START_SECONDS + 0.3, kill_what_trains_block_3)
    assert "not trained to the end: block 3 (3 workers were lost while at work on it" in run.train().error
    others = {stage: steps for stage, steps in run.steps_written().items() if stage != block(3)}
    assert others == {block(1): 48, block(2): 48, CLASSIFIER: 48}


def test_a_block_that_gets_further_after_each_loss_wins_its_budget_back():
    run = ScriptedRun("engine.max_failures=1", "engine.workers=3", "training.max_steps=480", cores=3)
    for _ in range(6):
        run.at(START_SECONDS + 10 * _ + 1, lambda: run.kill(run.core.stages[block(3)].worker))
    check_whole(run, run.train())


def test_a_stage_that_raises_is_named_and_the_others_are_trained_to_the_end():
    run = ScriptedRun()
    run.poisoned[block(2)] = 21
    assert run.train().error == (
        "not trained to the end: block 2 (NonFiniteError: the loss was nan, in the round from step 20); "
        "all else is trained and saved"
    )
    assert run.newest() == {block(1): 48, block(2): 16, block(3): 48, CLASSIFIER: 48}
    assert run.records_of(WorkerLost) == [], "its worker lives, and so do the worker's other stages"
    (failure,) = run.records_of(StageFailed)
    assert (failure.stage, failure.step, failure.trace) == (block(2), 21, "Trace")
    expected = run.expected.fingerprints(48)
    for stage in (block(1), block(3), CLASSIFIER):
        assert run.directory.checkpoints.entry(48, stage.file(3)).sha256 == expected[stage]


def test_where_w_embed_is_learned_a_stage_that_raises_ends_the_run_and_all_are_saved():
    """The others need its gradient."""
    run = ScriptedRun(LEARNED)
    run.poisoned[block(2)] = 21
    error = run.train().error
    assert "not trained to the end: block 2 (NonFiniteError" in error
    assert error.endswith("no other stage can go on without its gradient of W_embed; all are saved")
    assert run.newest()[block(2)] == 16
    run.poisoned.clear()
    check_whole(run, run.resume())


def test_where_one_worker_never_starts_its_blocks_move_after_the_time_that_is_set():
    run = ScriptedRun("engine.move_after_seconds=10")
    run.occupy(2)
    check_whole(run, run.train())
    assert {r.worker for r in run.records_of(RoundDone)} == {"block worker 1", "classifier worker"}
    first_of_3 = next(call for call in run.calls_of(c.Hold) if call.request.stage == block(3))
    assert first_of_3.process.slot == FIRST


def test_a_run_for_which_there_is_no_room_ends_with_a_sentence():
    run = ScriptedRun("engine.start_timeout_seconds=30")
    run.occupy(1, 2)
    assert "no block worker started within engine.start_timeout_seconds=30" in run.train().error


# Blocks that move


def test_blocks_of_a_node_that_leaves_go_to_another_worker_at_once_and_no_step_is_done_twice():
    run = ScriptedRun("engine.move_after_seconds=1e6")
    run.at(START_SECONDS + 1, lambda: run.leave(2))
    check_whole(run, run.train())
    assert [(r.worker, r.reason) for r in run.records_of(WorkerLost)] == [("block worker 2", "node_leaving")]
    trained = [(r.stage, r.worker) for r in run.records_of(RoundDone)]
    assert {worker for stage, worker in trained if stage == block(3)} == {"block worker 1", "block worker 2"}
    done = [record for record in run.records_of(RoundDone) if record.stage == block(3)]
    assert [record.first_step for record in done[1:]] == [record.step for record in done[:-1]], (
        "it went on where it stood"
    )


def test_a_snapshot_of_a_block_that_moves_is_told_as_written_only_where_a_run_can_go_on_from_it():
    """With a learned W_embed all stages go on together, from the steps at which all are snapshotted."""
    run = ScriptedRun(LEARNED, "checkpoint.every_steps=48", "checkpoint.snapshot_every_steps=24")
    run.at(START_SECONDS + 1, lambda: run.leave(2))
    check_whole(run, run.train())
    asked = {call.request.round.first_step for call in run.calls_of(c.Train) if call.request.round.stage == block(3)}
    assert asked, "it moved"
    assert {each.step for each in run.records_of(SnapshotWritten)} == {24, 48}


def test_a_cluster_that_grows_gets_more_workers_and_they_get_blocks():
    run = ScriptedRun("training.max_steps=4000", "checkpoint.every_steps=2000", "engine.round_steps=100",
                      "checkpoint.snapshot_every_steps=100", cores=1)  # fmt: skip
    run.at(START_SECONDS + 5, lambda: run.grow(2))
    check_whole(run, run.train())
    workers = {r.worker for r in run.records_of(RoundDone) if r.stage.is_block}
    assert workers == {"block worker 1", "block worker 2", "block worker 3"}
    news = [r.text for r in run.records_of(News)]
    assert any("the cluster has grown: 3 block(s) on 3 worker(s)" in text for text in news)
    assert any("moves from block worker 1 to block worker" in text for text in news)


def test_a_slow_worker_gives_blocks_to_one_that_has_nothing_left_to_do():
    run = ScriptedRun("training.max_steps=2000", "blocks.count=4", "checkpoint.every_steps=2000",
                      "checkpoint.snapshot_every_steps=200")  # fmt: skip
    run.pace(SECOND, 0.5)
    check_whole(run, run.train())
    moves = [r.text for r in run.records_of(News) if "moves from" in r.text]
    assert any(text.endswith("from block worker 2 to block worker 1") for text in moves)


# Stops, and processes that end


@EMBEDDINGS
@pytest.mark.parametrize("seconds", [1.0, START_SECONDS + 0.4, START_SECONDS + 1.1, START_SECONDS + 4.3])
def test_a_run_told_to_stop_goes_on_later_with_the_same_bits(embedding, seconds):
    run = ScriptedRun(embedding)
    run.at(seconds, run.stop)
    end = run.train()
    assert end.stopped
    assert end.error is None
    check_whole(run, run.resume())


@pytest.mark.parametrize("seconds", [START_SECONDS + 0.05, START_SECONDS + 0.25, START_SECONDS + 1.1])
def test_a_run_told_to_stop_saves_every_stage_where_it_stands(seconds):
    run = ScriptedRun()
    run.at(seconds, run.stop)
    assert run.train().stopped
    assert run.newest() == dict(run.steps_written()), "no snapshot without the records of the steps that lead to it"


@pytest.mark.parametrize("seconds", [START_SECONDS + 0.07 * count for count in range(90, 110)])
def test_a_run_told_to_stop_while_a_stage_does_steps_again_counts_no_step_twice_and_none_too_few(seconds):
    run = ScriptedRun("engine.workers=1", "checkpoint.every_steps=48", "checkpoint.snapshot_every_steps=48")
    run.at(START_SECONDS + 1.3, lambda: run.kill(FIRST))
    run.at(seconds, run.stop)
    assert run.train().stopped
    check_whole(run, run.resume())


@EMBEDDINGS
@pytest.mark.parametrize("seconds", [START_SECONDS + 0.1 * tenths for tenths in range(1, 43, 6)])
def test_a_run_whose_coordinator_is_lost_goes_on_from_its_store_on_other_workers(embedding, seconds):
    run = ScriptedRun(embedding, "engine.round_steps=1")
    assert run.train(seconds) is None
    check_whole(run, run.resume("engine.workers=3", "engine.round_steps=7", cores=3))


def test_a_run_that_is_finished_has_nothing_left_to_do():
    run = ScriptedRun("evaluation.samples=0")
    run.train()
    check_whole(run, run.resume())
    assert run.calls_of(c.Train) == []


# Storage


def test_storage_that_fails_for_a_while_costs_nothing():
    run = ScriptedRun()
    run.at(START_SECONDS + 0.5, run.storage.fill)
    run.at(START_SECONDS + 60, run.storage.empty)
    check_whole(run, run.train())
    news = [r.text for r in run.records_of(News)]
    assert any("cannot be written" in text and "No space left on device" in text for text in news)
    assert "the run directory can be written again" in news


def test_storage_that_does_not_answer_is_told_and_waited_for():
    run = ScriptedRun()
    run.at(START_SECONDS + 0.5, lambda: run.hang_storage(60))
    check_whole(run, run.train())
    told = [r.text for r in run.records_of(News) if "has not answered for 10 s" in r.text]
    assert len(told) == 1


def test_storage_that_never_answers_ends_the_run_after_the_time_that_is_set():
    run = ScriptedRun("checkpoint.storage_timeout_seconds=100")
    run.at(0, lambda: run.hang_storage(1e9))
    assert "did not answer for checkpoint.storage_timeout_seconds=100" in run.train().error
    assert run.world.now - 1000.0 < 300.0


def test_storage_that_fails_for_good_ends_the_run_after_the_time_that_is_set():
    run = ScriptedRun("checkpoint.storage_timeout_seconds=100")
    run.at(0, run.storage.fill)
    assert "could not be written for checkpoint.storage_timeout_seconds=100" in run.train().error
