"""How long a round is: longer where so many workers are so fast that one coordinator could not keep up."""

import pytest

from noprop_dist.bench.simulated_workers import simulated_records
from noprop_dist.engines.core.dispatch import MOST_ROUNDS_PER_SECOND, round_steps_for
from noprop_dist.records import RoundDone
from noprop_dist.run_plan import LONGEST_ROUND_BYTES
from noprop_dist.simulation.scenario import plan_of


@pytest.mark.parametrize(
    ("workers", "step_seconds", "steps"),
    [(8, 1e-4, 256), (51, 1e-4, 256), (52, 1e-4, 512), (1000, 1e-4, 8192), (1000, 2e-3, 256), (1000, 1e-9, 16384)],
)
def test_a_round_is_as_long_as_the_number_and_the_speed_of_workers_ask_for(workers, step_seconds, steps):
    assert round_steps_for(256, 20_000, workers, step_seconds) == steps
    assert steps in (256, 16384) or workers / (steps * step_seconds) <= MOST_ROUNDS_PER_SECOND


def test_a_round_grows_as_far_as_its_draws_fit_into_memory_and_never_beyond_what_was_asked_for():
    plan = plan_of(("training.batch_size=128", "engine.round_steps=auto"))
    assert plan.most_round_steps == LONGEST_ROUND_BYTES // (128 * (4 + 4 + 4 * 10))
    large = plan_of(("training.batch_size=4096", "engine.round_steps=auto", "embedding={kind: learned, dim: 1000}"))
    assert large.most_round_steps == large.round_steps == 16
    assert plan_of(("engine.round_steps=5",)).most_round_steps == 5


def rounds_of(*settings):
    records = simulated_records(60, 1024, 60, 0.0, settings)
    return [each for each in records if isinstance(each, RoundDone) and each.stage.is_block]


def test_rounds_of_fast_workers_grow_and_every_step_is_done_once():
    rounds = rounds_of()
    assert max(each.steps for each in rounds) > 16
    for index in range(1, 61):
        own = [each for each in rounds if each.stage.index == index]
        assert [each.first_step for each in own] == [0, *(each.step for each in own[:-1])]
        assert own[-1].step == 1024


def test_a_round_of_a_given_length_stays_that_long():
    assert {each.steps for each in rounds_of("engine.round_steps=16")} == {16}
