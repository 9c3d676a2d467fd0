"""Block-steps per second against the number of workers, one block each, against ideal.

Real blocks show what the machine's cores (or GPUs) give. Where there are few of them, blocks whose step is a timed
sleep show what the coordinator could keep going: nothing else limits those.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noprop_dist.bench.harness import Say, Spread, alternate, rate_in_words
from noprop_dist.bench.idle import SleepingWorker, idle_records
from noprop_dist.bench.rates import block_rate, ray_rate, undisturbed
from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.core.placement import room
from noprop_dist.engines.ray.cluster import cluster_resources, ray_session

SLEEPING = "sleeping"
SLEEPING_WORKERS = (1, 2, 4, 8, 16, 32)
START_SECONDS = 3.0
"""Upper bound for a worker's process to start beside the others: all have to be at work for some time."""
TOGETHER_SECONDS = 20.0


@dataclass(frozen=True)
class ScalingRow:
    """What was measured with a kind of block and a number of workers; `ideal` is in block-steps per second, too."""

    kind: str
    workers: int
    block_steps_per_second: Spread
    ideal: float
    percent_of_ideal: float


def bench_scaling(
    preset: str, settings: Sequence[str], steps: int, most: int, repeats: int, say: Say
) -> list[ScalingRow]:
    """Measure both kinds of block with 1, 2, 4, … workers, in turns; a row for each.

    Args:
        preset: data and network of the real blocks.
        settings: further settings of theirs, as for `train`.
        steps: of every real block in one turn.
        most: sleeping workers.
        repeats: turns.
        say: told what is being measured.
    """
    with ray_session(None):
        places = room(EngineSettings(), cluster_resources())
        sides: dict[tuple[str, int], Callable[[int], float]] = {
            (preset, workers): partial(_real_rate, preset, settings, steps, workers) for workers in _doubling(places)
        }
        for workers in (number for number in SLEEPING_WORKERS if number <= most):
            sides[SLEEPING, workers] = partial(_sleeping_rate, workers)
        rates = alternate(sides, repeats, say, rate_in_words, named=lambda side: f"{side[0]}, {side[1]} worker(s)")
    spreads = {side: Spread(figures) for side, figures in rates.items()}
    ideal_of_one = {SLEEPING: 1 / SleepingWorker.step_seconds, preset: spreads[preset, 1].median}
    return [_row(*side, spread, ideal_of_one[side[0]] * side[1]) for side, spread in spreads.items()]


def scaling_figure(rows: Sequence[ScalingRow]) -> Figure:
    """Block-steps per second over workers, against ideal."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes: Axes = figure.subplots()
    for kind in dict.fromkeys(row.kind for row in rows):
        line = [row for row in rows if row.kind == kind]
        workers = [row.workers for row in line]
        (drawn,) = axes.plot(workers, [row.block_steps_per_second.median for row in line], marker="o", label=kind)
        axes.plot(workers, [row.ideal for row in line], color=drawn.get_color(), linestyle=":", label=f"{kind}, ideal")
    axes.set(title="One block for each worker", xlabel="workers", ylabel="block-steps per second")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.legend()
    return figure


def _doubling(most: int) -> list[int]:
    """1, 2, 4, …, and `most` itself."""
    return sorted({*(2**k for k in range(most.bit_length()) if 2**k <= most), most})


def _real_rate(preset: str, settings: Sequence[str], steps: int, workers: int, _: int) -> float:
    fixed = [*undisturbed(steps, workers), f"blocks.count={workers}"]
    return ray_rate(load_config(preset, None, [*settings, *fixed]), workers)


def _sleeping_rate(workers: int, _: int) -> float:
    seconds = START_SECONDS * workers + TOGETHER_SECONDS
    records = idle_records(workers, int(seconds / SleepingWorker.step_seconds), workers, SleepingWorker)
    return block_rate(records, [(block,) for block in range(1, workers + 1)])


def _row(kind: str, workers: int, rate: Spread, ideal: float) -> ScalingRow:
    return ScalingRow(kind, workers, rate, ideal, 100 * rate.median / ideal)
