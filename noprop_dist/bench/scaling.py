"""Block-steps per second against the number of workers, one block each, against ideal.

Real blocks show what the machine's cores (or GPUs) give. Where there are few of them, blocks whose step is a timed
sleep show what the coordinator could keep going: nothing else limits those.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from noprop_dist.bench.idle_run import idle_records
from noprop_dist.bench.idle_workers import SleepingWorker
from noprop_dist.bench.rates import block_rate, ray_rate, undisturbed
from noprop_dist.bench.spread import rate_columns
from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.core.placement import room
from noprop_dist.engines.ray.cluster import cluster_resources, ray_session

SLEEPING_WORKERS = (1, 2, 4, 8, 16, 32)
START_SECONDS = 3.0
"""Upper bound for a worker's process to start beside the others: all have to be at work for some time."""
TOGETHER_SECONDS = 20.0


def bench_scaling(
    preset: str, settings: Sequence[str], steps: int, most: int, repeats: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure both kinds of block with 1, 2, 4, … workers, in turns; a row for each.

    Args:
        preset: data and network of the real blocks.
        settings: further settings of theirs, as for `train`.
        steps: of every real block in one turn.
        most: sleeping workers.
        repeats: turns.
        say: told what is being measured.
    """
    rates: dict[tuple[str, int], list[float]] = {}

    def add(kind: str, workers: int, rate: float) -> None:
        rates.setdefault((kind, workers), []).append(rate)
        turn = f"turn {len(rates[kind, workers])} of {repeats}"
        say(f"{turn}, {kind}, {workers} worker(s): {rate:.2f} block-steps/s")

    with ray_session(None):
        places = room(EngineSettings(), cluster_resources())
        for _ in range(repeats):
            for workers in _doubling(places):
                add(preset, workers, _real_rate(preset, settings, steps, workers))
            for workers in (number for number in SLEEPING_WORKERS if number <= most):
                add("sleeping", workers, _sleeping_rate(workers))
    ideal_of_one = {"sleeping": 1 / SleepingWorker.step_seconds, preset: statistics.median(rates[preset, 1])}
    return [_row(*key, measured, ideal_of_one[key[0]] * key[1]) for key, measured in rates.items()]


def _doubling(most: int) -> list[int]:
    """1, 2, 4, …, and `most` itself."""
    return sorted({*(2**k for k in range(most.bit_length()) if 2**k <= most), most})


def _real_rate(preset: str, settings: Sequence[str], steps: int, workers: int) -> float:
    fixed = [*undisturbed(steps, workers), f"blocks.count={workers}"]
    return ray_rate(load_config(preset, None, [*settings, *fixed]), workers)


def _sleeping_rate(workers: int) -> float:
    seconds = START_SECONDS * workers + TOGETHER_SECONDS
    records = idle_records(workers, int(seconds / SleepingWorker.step_seconds), workers, SleepingWorker)
    return block_rate(records, [(block,) for block in range(1, workers + 1)])


def _row(kind: str, workers: int, rates: list[float], ideal: float) -> dict[str, Any]:
    return {
        "kind": kind,
        "workers": workers,
        **rate_columns(rates),
        "ideal": ideal,
        "percent_of_ideal": 100 * statistics.median(rates) / ideal,
    }
