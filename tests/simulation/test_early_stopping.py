"""When a run that gets no better ends, and what is kept of it: the same whatever is slow or lost, in both engines."""

import random

import pytest
from hashing import LEARNED, HashingWorld, sequentially, small_plan
from real_training import RealWorld
from run_facts import fingerprints, records_of
from test_runs import any_engine, something_breaks
from world import START_SECONDS

from noprop_dist import api
from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.commands import EVALUATOR, Slot
from noprop_dist.engines.core.evaluations import MOST_WAITING
from noprop_dist.inference.score import best_step
from noprop_dist.records import CheckpointCompleted, Evaluated, News, RoundDone, RunEnded
from noprop_dist.stages import block
from noprop_dist.storage.run_directory import RunDirectory

FIRST, SECOND = Slot("block worker", 1), Slot("block worker", 2)
PATIENT = ["training.early_stopping={patience: 2}", "checkpoint.every_steps=8", "training.max_steps=400"]


def peak_at(best):
    """An accuracy that rises up to a step and falls after it."""
    return lambda step: 1 - abs(step - best) / 1000


@pytest.mark.parametrize("embedding", ["embedding={kind: onehot}", LEARNED], ids=["fixed", "learned"])
@pytest.mark.parametrize("evaluation_seconds", [0.01, 3.0, 40.0])
def test_the_step_at_which_a_run_ends_does_not_depend_on_how_slow_its_evaluator_is(embedding, evaluation_seconds):
    world = HashingWorld(small_plan(embedding, *PATIENT), accuracy=peak_at(40))
    world.evaluation_seconds = evaluation_seconds
    end = world.train()
    assert (end.step, end.error, end.stopped) == (56, None, False)
    assert [each.step for each in world.records_of(Evaluated)] == [8, 16, 24, 32, 40, 48, 56], "none is left out"
    assert max(world.saved.saved) == 56, "what stages did beyond it is deleted"
    expected = sequentially(small_plan(embedding, *PATIENT, "training.max_steps=56"))
    assert {stage: snapshot.fingerprint() for stage, snapshot in world.saved.saved[56].items()} == expected
    assert [(each.step, each.error) for each in world.records_of(RunEnded)] == [(56, None)]
    assert any("ends early at step 56" in each.text and "step 40" in each.text for each in world.records_of(News))


def test_no_stage_runs_further_ahead_of_a_decision_than_a_few_checkpoints():
    world = HashingWorld(small_plan(*PATIENT), accuracy=peak_at(40))
    world.evaluation_seconds = 1000.0
    world.train()
    measured = 0
    for each in world.records:
        if isinstance(each, Evaluated):
            measured = each.step
        if isinstance(each, RoundDone):
            assert each.step <= measured + 8 * MOST_WAITING


@pytest.mark.parametrize("seed", range(25))
def test_whatever_is_lost_a_run_ends_at_the_same_step(seed):
    luck, world = random.Random(seed), None
    embedding = luck.choice(["embedding={kind: onehot}", LEARNED])
    for lives in reversed(range(luck.choice([1, 2, 3]))):
        plan = small_plan(embedding, *any_engine(luck), *PATIENT)
        world = HashingWorld(plan, luck.randint(1, 3), before=world, accuracy=peak_at(64))
        world.evaluation_seconds = luck.choice([0.01, 1.0, 5.0])
        for _ in range(5):
            world.at(luck.uniform(0, 60), lambda world=world: without_full_disk(world, luck))
        if lives > 0 and world.train(luck.uniform(0, 60)) is not None:
            break
    else:
        world.train()
    if world.seen[-1].error is not None:
        assert "could not be measured" in world.seen[-1].error, "an evaluator that is lost again and again"
        return
    assert world.seen[-1].step == 80
    assert max(world.saved.saved) == 80


def without_full_disk(world, luck):
    """A checkpoint that cannot be written is left out, and does not count."""
    events = something_breaks(world, luck)
    world.store_fails = False
    return events


def test_a_decision_whose_process_ended_before_it_was_carried_out_is_carried_out_by_the_next():
    undecided = [*PATIENT, "training.early_stopping=null", "checkpoint.score=validation accuracy"]
    world = HashingWorld(small_plan(*undecided), accuracy=peak_at(40))
    world.train()
    (last,) = [n for n, each in enumerate(world.records) if isinstance(each, Evaluated) and each.step == 56]
    world.records_flushed = last + 1
    assert max(world.saved.saved) > 56
    again = HashingWorld(small_plan(*PATIENT), before=world, accuracy=peak_at(40))
    end = again.train()
    assert (end.step, end.error) == (56, None)
    assert max(again.saved.saved) == 56
    assert again.calls_of(c.Train) == []


def test_more_patience_lets_a_run_that_ended_early_go_on():
    world = HashingWorld(small_plan(*PATIENT), accuracy=peak_at(40))
    assert world.train().step == 56
    world.records_flushed = len(world.records)
    more = small_plan(*PATIENT, "training.early_stopping.patience=4")
    assert HashingWorld(more, before=world, accuracy=peak_at(40)).train().step == 72
    off = small_plan(*PATIENT, "training.early_stopping=null")
    assert HashingWorld(off, before=world, accuracy=peak_at(40)).train().step == 400


def test_min_delta_is_what_an_improvement_must_exceed():
    rises = lambda step: step / 10_000  # noqa: E731 (0.0008 at each checkpoint)
    settings = [*PATIENT, "training.early_stopping.min_delta=0.001"]
    assert HashingWorld(small_plan(*settings), accuracy=rises).train().step == 400, "two of them together exceed it"
    settings = [*PATIENT, "training.early_stopping.min_delta=0.01"]
    assert HashingWorld(small_plan(*settings), accuracy=rises).train().step == 24


def test_a_run_that_gets_better_to_its_end_is_trained_to_its_end():
    world = HashingWorld(small_plan(*PATIENT), accuracy=peak_at(400))
    end = world.train()
    assert (end.step, end.error) == (400, None)
    assert [each.step for each in world.records_of(CheckpointCompleted)] == list(range(8, 401, 8))


def test_a_run_whose_evaluator_is_lost_for_good_ends_with_a_sentence_and_not_by_luck():
    world = HashingWorld(small_plan(*PATIENT, "engine.max_failures=1"), accuracy=peak_at(40))
    world.evaluation_seconds = 20.0
    for seconds in range(7, 700, 7):
        world.at(seconds, lambda: world.kill(EVALUATOR))
    assert "training.early_stopping decides by it" in world.train().error


def test_a_stopped_run_decides_once_it_goes_on():
    world = HashingWorld(small_plan(*PATIENT), accuracy=peak_at(40))
    world.at(START_SECONDS + 1, world.stop)
    assert world.train().stopped
    world.records_flushed = len(world.records)
    assert HashingWorld(small_plan(*PATIENT), before=world, accuracy=peak_at(40)).train().step == 56


def test_stages_do_not_wait_for_a_decision_that_a_failed_stage_makes_impossible():
    world = HashingWorld(small_plan(*PATIENT), raise_at={block(2): 20}, accuracy=peak_at(200))
    end = world.train()
    assert "block 2 (OverflowError: the soup boiled over" in end.error
    assert world.run.stages[block(1)].queue.steps_done == 400


# With real training and real files

RUN = ["training.max_steps=48", "checkpoint.every_steps=4", "checkpoint.snapshot_every_steps=4", "engine.device=cpu",
       "training.batch_size=16", "evaluation.samples=32"]  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        ["training.early_stopping={patience: 2}", "checkpoint.num_to_keep=1"],
        ["training.early_stopping={patience: 3}", "checkpoint.score=validation elbo", "checkpoint.num_to_keep=3"],
        ["checkpoint.score=validation cross-entropy", "checkpoint.num_to_keep=2"],
        ["training.early_stopping={patience: 1}", "embedding={kind: learned, sync_steps: 4}"],
    ],
    ids=["accuracy", "elbo", "no early stopping", "learned"],
)
@pytest.mark.parametrize("evaluation_seconds", [5.0, pytest.param(0.05, marks=pytest.mark.slow)])
def test_both_engines_keep_the_same_checkpoints_bit_for_bit(small_config, tmp_path, settings, evaluation_seconds):
    config = small_config(*RUN, *settings)
    api.train(small_config(*RUN, *settings, "engine.kind=sequential"), str(tmp_path / "sequential"))
    world = RealWorld(config, tmp_path / "run", 2)
    world.evaluation_seconds = evaluation_seconds
    world.at(START_SECONDS + 1, lambda: world.kill(FIRST))
    end = world.train()
    assert end.error is None
    there, here = (RunDirectory(str(tmp_path / name)).checkpoints for name in ("sequential", "run"))
    assert here.steps() == there.steps()
    assert here.steps()[-1] == end.step
    assert here.steps_after(end.step) == []
    for step in there.steps():
        assert fingerprints(tmp_path / "run", step) == fingerprints(tmp_path / "sequential", step)
    assert best_step(RunDirectory(str(tmp_path / "run"))) == best_step(RunDirectory(str(tmp_path / "sequential")))
    outcome = api.resume(str(tmp_path / "sequential"))
    assert (outcome.step, outcome.stopped) == (end.step, False), "it is finished"


def test_the_best_checkpoint_and_the_last_are_kept(small_run):
    directory = small_run(*RUN[1:], "checkpoint.score=validation accuracy", "checkpoint.num_to_keep=1")
    accuracies = {
        each.step: each.accuracy for each in records_of(str(directory), Evaluated) if each.split == "validation"
    }
    best = max(accuracies, key=lambda step: (accuracies[step], -step))
    assert directory.checkpoints.steps() == sorted({best, 12})
    assert best_step(directory) == best
