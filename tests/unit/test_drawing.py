"""Who draws z changes no bit, only who would otherwise be waited for."""

import pytest

from noprop_dist.engines.core.drawing import who_draws
from noprop_dist.engines.core.placement import Resources, place
from noprop_dist.training.setup import prepare

CPUS, GPUS = Resources(9, 0), Resources(64, 8)


@pytest.fixture
def drawing(small_config):
    def decide(resources, *settings):
        setup, _ = prepare(small_config("blocks.count=8", *settings))
        engine = setup.config.engine
        return who_draws(setup.plan, place(setup.config.blocks.trained(), engine, resources))

    return decide


@pytest.mark.parametrize(
    ("resources", "settings", "by_coordinator"),
    [
        (CPUS, (), True),
        (CPUS, ("engine.sampling=worker",), False),
        (Resources(8, 0), (), False),
        (Resources(2, 0), (), False),
        (Resources(2, 0), ("engine.workers=1",), True),
        (GPUS, (), False),
        (GPUS, ("engine.workers=4",), True),
        (GPUS, ("engine.sampling=coordinator",), True),
        (CPUS, ("embedding={kind: learned, dim: 200}",), False),
        (CPUS, ("embedding={kind: prototype}",), True),
    ],
)
def test_the_coordinator_draws_unless_it_could_not_keep_up(drawing, resources, settings, by_coordinator):
    assert drawing(resources, *settings).by_coordinator == by_coordinator


def test_the_reason_says_what_is_too_much(drawing):
    assert "102,400 bytes a step" in drawing(CPUS, "embedding={kind: learned, dim: 200}").reason
    assert "cannot keep up with 8" in drawing(GPUS).reason
    assert "has no core to itself" in drawing(Resources(2, 0)).reason
