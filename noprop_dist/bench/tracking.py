"""What experiment trackers cost: block-steps per second with each of them, against none."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from noprop_dist.bench.harness import Say, Spread, alternate, rate_in_words
from noprop_dist.bench.rates import ray_rate, undisturbed
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.cluster import ray_session

SIDES = {
    "none": "[]",
    "tensorboard": "[tensorboard]",
    "mlflow": "[mlflow]",
    "wandb": "[wandb]",
    "all three": "[tensorboard, mlflow, wandb]",
}


@dataclass(frozen=True)
class TrackingRow:
    """One side.

    Attributes:
        trackers: of the run.
        median: block-steps per second.
        cost_percent: of the median without trackers.
    """

    trackers: str
    median: Spread
    cost_percent: float


def bench_tracking(
    preset: str, settings: Sequence[str], steps: int, repeats: int, workers: int, say: Say
) -> list[TrackingRow]:
    """Measure runs with and without trackers in turns.

    Args:
        preset: data and network.
        settings: further settings, as for `train`.
        steps: of every block in one turn.
        repeats: turns of each side.
        workers: one thread each.
        say: told what is being measured.
    """
    fixed = [*undisturbed(steps, workers), "engine.device=cpu"]

    def measure(trackers: str, _: int) -> float:
        return ray_rate(load_config(preset, None, [*settings, *fixed, f"tracking={trackers}"]), workers)

    with ray_session(None):
        turns = alternate({s: partial(measure, t) for s, t in SIDES.items()}, repeats, say, rate_in_words, warm_ups=1)
    rates = {side: Spread(each) for side, each in turns.items()}
    return [TrackingRow(side, each, 100 * (1 - each.median / rates["none"].median)) for side, each in rates.items()]
