"""What snapshots cost: block-steps per second with them, at a dense cadence, against none at all.

A dense cadence makes the cost large enough to be seen over the noise; what one snapshot costs follows from it, and
from that the share at any cadence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from noprop_dist.bench.harness import Say, SideRow, Spread, alternate, rate_in_words
from noprop_dist.bench.rates import ray_rate, undisturbed
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.cluster import ray_session
from noprop_dist.run_plan import SNAPSHOT_EVERY_STEPS


@dataclass(frozen=True)
class SnapshotCost:
    """What snapshots cost.

    Attributes:
        every: steps from a snapshot to the next.
        with_snapshots: block-steps per second.
        without: block-steps per second.
        workers: that took these steps side by side.
    """

    every: int
    with_snapshots: Spread
    without: Spread
    workers: int

    @property
    def seconds(self) -> float:
        """That one snapshot takes from its worker's training."""
        return self.every * self.workers * (1 / self.with_snapshots.median - 1 / self.without.median)

    def share(self, every: int) -> float:
        """Of the throughput that snapshots take, with `every` steps between them."""
        step_seconds = self.workers / self.without.median
        return self.seconds / (every * step_seconds + self.seconds)

    def rows(self) -> list[SideRow]:
        return [SideRow(f"every {self.every} steps", self.with_snapshots), SideRow("none", self.without)]


def default_cadence() -> int:
    """`checkpoint.snapshot_every_steps` of a run on CPUs, unless something else is set."""
    return SNAPSHOT_EVERY_STEPS[False]


def bench_snapshots(
    preset: str, settings: Sequence[str], every: int, steps: int, repeats: int, workers: int, say: Say
) -> SnapshotCost:
    """Measure runs with and without snapshots in turns, with the same rounds.

    Args:
        preset: data and network.
        settings: further settings, as for `train`.
        every: steps from a snapshot to the next.
        steps: of every block in one turn.
        repeats: turns of each side.
        workers: one thread each.
        say: told what is being measured.
    """
    fixed = [*undisturbed(steps, workers), "engine.device=cpu", f"engine.round_steps={min(every, 16)}"]

    def measure(cadence: int, _: int) -> float:
        options = [*settings, *fixed, f"checkpoint.snapshot_every_steps={cadence}"]
        return ray_rate(load_config(preset, None, options), workers)

    sides = {"none": partial(measure, steps), f"every {every} steps": partial(measure, every)}
    with ray_session(None):
        without, with_snapshots = alternate(sides, repeats, say, rate_in_words).values()
    return SnapshotCost(every, Spread(with_snapshots), Spread(without), workers)
