"""The tolerances are narrow enough: small changes of the mathematics are found, rounding is not."""

from contextlib import AbstractContextManager, nullcontext

import fixture_files
import pytest
import runs
from comparison import differences

pytestmark = pytest.mark.slow  # it is a test of tests


def differences_after(
    run: str, *settings: str, mutation: AbstractContextManager[None] | None = None, of: str = ""
) -> list[str]:
    """From the pinned run, if it is trained with other settings or a mutated package; `of` selects lines."""
    with mutation or nullcontext():
        now = runs.train([*runs.RUNS[run], *settings])
    return [line for line in differences(fixture_files.read(run), now) if of in line]


@pytest.mark.parametrize(("run", "eta"), [("small-conv", 0.303), ("mlp", 0.303), ("digits-onehot", 0.101)])
def test_eta_changed_by_one_percent_is_found(run, eta):
    assert differences_after(run, f"objective.eta={eta}", of="losses")


@pytest.mark.parametrize("run", ["small-conv", "mlp"])
def test_noise_of_two_blocks_that_is_swapped_is_found(run):
    assert differences_after(run, mutation=runs.noise_of_blocks_1_and_2_swapped(), of="errors")


def test_a_kl_term_without_gradient_is_found():
    assert differences_after("learned", mutation=runs.kl_term_without_gradient(), of="embedding")


def test_a_gradient_of_the_embedding_that_leaves_out_its_way_through_z_is_found():
    assert differences_after("learned", mutation=runs.z_as_a_constant(), of="embedding")


@pytest.mark.parametrize("run", ["small-conv", "mlp"])
@pytest.mark.parametrize("sampler", ["mean", "stochastic"])
def test_decisions_show_that_the_term_b_t_z_is_left_out(run, sampler):
    assert differences_after(run, mutation=runs.inference_without_b_t(), of=f"sampler {sampler}")


@pytest.mark.parametrize("run", ["adamw", "scheduled-and-clipped"])
def test_weight_decay_that_is_left_out_is_found(run):
    assert differences_after(run, "training.weight_decay=0", of="errors")


@pytest.mark.parametrize("change", ["training.gradient_clip=0.505", "training.lr_schedule.warmup_steps=6"])
def test_a_small_change_of_clipping_or_of_the_learning_rate_is_found(change):
    assert differences_after("scheduled-and-clipped", change, of="errors")


@pytest.mark.parametrize("run", ["small-conv", "learned", "digits-onehot"])
def test_another_order_of_sums_is_no_difference(run):
    assert differences_after(run, "training.channels_last=false") == []
