"""What snapshots cost: block-steps per second with them, at a dense cadence, against none at all.

A dense cadence makes the cost large enough to be seen over the noise; what one snapshot costs follows from it, and
from that the share at any cadence.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from noprop_dist.bench.rates import ray_rate, undisturbed
from noprop_dist.bench.spread import spread
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.cluster import ray_session
from noprop_dist.training.run_plan import SNAPSHOT_EVERY_STEPS


@dataclass(frozen=True)
class SnapshotCost:
    """Block-steps per second of each turn, and what follows from their medians.

    Attributes:
        every: steps from a snapshot to the next.
        with_snapshots: block-steps per second.
        without: block-steps per second.
        workers: that took these steps side by side.
    """

    every: int
    with_snapshots: list[float]
    without: list[float]
    workers: int

    @property
    def seconds(self) -> float:
        """That one snapshot takes from its worker's training."""
        medians = statistics.median(self.with_snapshots), statistics.median(self.without)
        return self.every * self.workers * (1 / medians[0] - 1 / medians[1])

    def share(self, every: int) -> float:
        """Of the throughput at a cadence."""
        step_seconds = self.workers / statistics.median(self.without)
        return self.seconds / (every * step_seconds + self.seconds)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each side."""
        return [spread(f"every {self.every} steps", self.with_snapshots), spread("none", self.without)]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        default = default_cadence()
        shares = {"share_as_measured": self.share(self.every), "share_at_default": self.share(default)}
        return {"rows": self.rows(), "seconds_per_snapshot": self.seconds, "default_every": default, **shares}


def default_cadence() -> int:
    """checkpoint.snapshot_every_steps where nothing is said of it."""
    return SNAPSHOT_EVERY_STEPS[False]


def bench_snapshots(
    preset: str, settings: Sequence[str], every: int, steps: int, repeats: int, workers: int, say: Callable[[str], None]
) -> SnapshotCost:
    """Measure both sides in turns, with the same rounds.

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

    def measure(cadence: int) -> float:
        options = [*settings, *fixed, f"checkpoint.snapshot_every_steps={cadence}"]
        return ray_rate(load_config(preset, None, options), workers)

    cost = SnapshotCost(every, [], [], workers)
    with ray_session(None):
        for turn in range(repeats):
            cost.without.append(measure(steps))
            cost.with_snapshots.append(measure(every))
            say(
                f"turn {turn + 1} of {repeats}: none {cost.without[-1]:.2f}, every {every} steps "
                f"{cost.with_snapshots[-1]:.2f} block-steps/s"
            )
    return cost
