"""What the training loop remembers of a stage."""

from noprop_dist.engines.core.round_queue import StageQueue
from noprop_dist.engines.ray.stage import RECENT_ROUNDS, Stage


def test_a_round_that_was_slow_once_is_forgotten():
    """How long a worker may be silent before it counts as hung follows from it."""
    stage = Stage(1, "block 1", StageQueue([100], round_steps=4, prefetch=2), "block worker 1")
    assert stage.slowest_step_seconds is None
    stage.recent_step_seconds.append(0.8)
    for _ in range(RECENT_ROUNDS - 1):
        stage.recent_step_seconds.append(0.005)
    assert stage.slowest_step_seconds == 0.8
    stage.recent_step_seconds.append(0.006)
    assert stage.slowest_step_seconds == 0.006
