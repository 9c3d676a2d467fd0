"""When a run that gets no better ends, and what is kept of it: the same whatever is slow or lost, in both engines."""

import pytest
from real_training import RealRun
from run_facts import fingerprints, records_of
from scripted_runs import LEARNED, START_SECONDS, ScriptedRun

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


def run_of(accuracy, *settings):
    run = ScriptedRun(*PATIENT, *settings)
    run.accuracy = accuracy
    return run


def last_saved(run):
    return max(run.newest().values())


@pytest.mark.parametrize("embedding", ["embedding={kind: onehot}", LEARNED], ids=["fixed", "learned"])
@pytest.mark.parametrize("evaluation_seconds", [0.01, 3.0, 40.0])
def test_the_step_at_which_a_run_ends_does_not_depend_on_how_slow_its_evaluator_is(embedding, evaluation_seconds):
    run = run_of(peak_at(40), embedding)
    run.cluster.evaluation_seconds = evaluation_seconds
    end = run.train()
    assert (end.step, end.error, end.stopped) == (56, None, False)
    assert [each.step for each in run.records_of(Evaluated)] == [8, 16, 24, 32, 40, 48, 56], "none is left out"
    assert last_saved(run) == 56, "what stages did beyond it is deleted"
    assert run.fingerprints(56) == run.expected.fingerprints(56)
    assert [(each.step, each.error) for each in run.records_of(RunEnded)] == [(56, None)]
    assert any("ends early at step 56" in each.text and "step 40" in each.text for each in run.records_of(News))


def test_a_resume_decides_without_a_checkpoint_that_is_damaged_and_was_not_measured():
    run = run_of(peak_at(40))
    run.cluster.evaluation_seconds = 1000.0
    run.train(seconds=START_SECONDS + 10)
    file = "checkpoints/step-00000016/block-01.safetensors"
    run.storage.put({file: run.storage.undisturbed().read(file)[:-1] + b"?"})
    run.outcome.struck["bit flipped in a snapshot"] += 1
    run.cluster.evaluation_seconds = 0.01
    end = run.resume()
    assert (end.step, end.error) == (56, None)
    assert any("step 16 is damaged; training.early_stopping decides without it" in r.text for r in run.records_of(News))


def test_no_stage_runs_further_ahead_of_a_decision_than_a_few_checkpoints():
    run = run_of(peak_at(40))
    run.cluster.evaluation_seconds = 1000.0
    run.train()
    measured = 0
    for each in run.records:
        if isinstance(each, Evaluated):
            measured = each.step
        if isinstance(each, RoundDone):
            assert each.step <= measured + 8 * MOST_WAITING


@pytest.mark.parametrize("operations", [8, 14, 40])
def test_a_decision_whose_process_ended_before_it_was_carried_out_is_carried_out_by_the_next(operations):
    """It was written down; of what had to be deleted, nothing was, or a part."""
    run = run_of(peak_at(40))
    run.cluster.evaluation_seconds = 3.0  # stages go on meanwhile

    def die_soon():
        process = run.coordinator.process
        process.dies_at = process.points + operations

    run.when(lambda command: isinstance(command, c.UseStorage) and isinstance(command.task, c.EndAt), die_soon)
    assert run.train() is None
    assert [each.step for each in run.records_of(Evaluated)][-1] == 56
    assert last_saved(run) > 56
    end = run.resume()
    assert (end.step, end.error) == (56, None)
    assert last_saved(run) == 56
    assert run.calls_of(c.Train) == []


def test_more_patience_lets_a_run_that_ended_early_go_on():
    run = run_of(peak_at(40))
    assert run.train().step == 56
    assert run.resume("training.early_stopping.patience=4").step == 72
    assert run.resume("training.early_stopping=null").step == 400


def test_min_delta_is_what_an_improvement_must_exceed():
    rises = lambda step: step / 10_000  # noqa: E731 (0.0008 at each checkpoint)
    run = run_of(rises, "training.early_stopping.min_delta=0.001")
    assert run.train().step == 400, "two of them together exceed it"
    assert run_of(rises, "training.early_stopping.min_delta=0.01").train().step == 24


def test_a_run_that_gets_better_to_its_end_is_trained_to_its_end():
    run = run_of(peak_at(400))
    end = run.train()
    assert (end.step, end.error) == (400, None)
    assert [each.step for each in run.records_of(CheckpointCompleted)] == list(range(8, 401, 8))


def test_a_run_whose_evaluator_is_lost_for_good_ends_with_a_sentence_and_not_by_luck():
    run = run_of(peak_at(40), "engine.max_failures=1")
    run.cluster.evaluation_seconds = 20.0
    for seconds in range(7, 700, 7):
        run.at(seconds, lambda: run.kill(EVALUATOR))
    assert "training.early_stopping decides by it" in run.train().error


def test_a_stopped_run_decides_once_it_goes_on():
    run = run_of(peak_at(40))
    run.at(START_SECONDS + 1, run.stop)
    assert run.train().stopped
    assert run.resume().step == 56


def test_stages_do_not_wait_for_a_decision_that_a_failed_stage_makes_impossible():
    run = run_of(peak_at(200))
    run.poisoned[block(2)] = 20
    end = run.train()
    assert "block 2 (NonFiniteError: the loss was nan" in end.error
    assert run.core.stages[block(1)].queue.steps_done == 400


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
    run = RealRun(config, tmp_path / "run")
    run.cluster.evaluation_seconds = evaluation_seconds
    run.at(START_SECONDS + 1, lambda: run.kill(FIRST))
    end = run.train()
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
