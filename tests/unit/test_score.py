"""How good checkpoints are, from their figures alone."""

from math import nan

import pytest

from noprop_dist.config.schema import EarlyStoppingSettings
from noprop_dist.errors import UserError
from noprop_dist.inference.score import Scores, best_step
from noprop_dist.records import Evaluated, ObjectiveMeasured


def accuracies(*values, split="validation", sampler="mean"):
    """Of checkpoints of the steps 10, 20, …"""
    return [
        Evaluated(step=10 * n, final=False, split=split, accuracy=value, nearest_embedding_accuracy=1 - value,
                  sampler=sampler, passes=1, samples=9)
        for n, value in enumerate(values, start=1)
    ]  # fmt: skip


def terms(step, value):
    return ObjectiveMeasured(step=step, final=False, split="validation", cross_entropy=value, kl=0, squared_errors=(),
                             denoising_terms=(), denoising=0, objective=value, elbo=-value)  # fmt: skip


def stops(patience, *values, min_delta=0.0):
    settings = EarlyStoppingSettings(patience=patience, min_delta=min_delta)
    return Scores("validation accuracy", settings, accuracies(*values)).stop_step(range(1000))


def test_the_best_come_first_and_of_equal_ones_the_earliest():
    scores = Scores("validation accuracy", None, accuracies(0.5, 0.9, 0.7, 0.9))
    assert scores.best(3) == (20, 40, 30)
    assert scores.best(3, among=[10, 30]) == (30, 10)


def test_each_score_is_the_figure_of_its_name_and_knows_its_better_direction():
    records = [*accuracies(0.5, 0.9), terms(10, 1.0), terms(20, 2.0)]
    best = {
        "validation accuracy": 20, "validation nearest-embedding accuracy": 10, "validation cross-entropy": 10,
        "validation objective": 10, "validation elbo": 10,
    }  # fmt: skip
    assert {score: Scores(score, None, records).best(1)[0] for score in best} == best


def test_the_test_split_and_single_passes_decide_nothing():
    others = [*accuracies(0.9, split="test"), *accuracies(0.9, sampler="stochastic")]
    assert Scores("validation accuracy", None, others).best(1) == ()


def test_a_figure_that_is_no_number_is_the_worst():
    assert Scores("validation accuracy", None, accuracies(nan, 0.1)).best(1) == (20,)
    assert stops(2, nan, nan) == 20


def test_a_run_ends_after_so_many_checkpoints_without_improvement():
    assert stops(2, 0.5, 0.6, 0.6) is None
    assert stops(2, 0.5, 0.6, 0.6, 0.55) == 40
    assert stops(2, 0.5, 0.6, 0.6, 0.61) is None
    assert stops(1, 0.5, 0.6, 0.64, min_delta=0.05) == 30


def test_only_a_checkpoint_that_is_there_ends_a_run():
    scores = Scores("validation accuracy", EarlyStoppingSettings(patience=1), accuracies(0.5, 0.4))
    assert scores.stop_step([10, 20]) == 20
    assert scores.stop_step([10, 30]) is None


def test_what_was_never_measured_has_no_best(small_run):
    with pytest.raises(UserError, match="none of its checkpoints was measured on validation data"):
        best_step(small_run("evaluation.samples=0"))
