"""What the engine itself costs for each block-step: blocks that do nothing, against their number.

The whole path is there (queues, rounds, actor calls, reports, records), so this is the most block-steps a second that
one coordinator can keep going on this machine, however fast the devices.
"""

import statistics
from collections.abc import Callable
from typing import Any

from noprop_dist.bench.idle_run import idle_records
from noprop_dist.bench.idle_workers import NoopWorker
from noprop_dist.bench.rates import block_rate
from noprop_dist.bench.spread import rate_columns
from noprop_dist.engines.ray.cluster import ray_session

BLOCKS = (10, 50, 100, 200)


def bench_dispatch(
    rounds: int, round_steps: int, sampling: str, workers: int, repeats: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure every number of blocks, in turns; a row for each.

    Args:
        rounds: of all blocks together, in one turn.
        round_steps: steps in one round.
        sampling: who draws z: `worker` is the engine alone, `coordinator` adds the drawing of every batch.
        workers: processes.
        repeats: turns.
        say: told what is being measured.
    """
    rates: dict[int, list[float]] = {blocks: [] for blocks in BLOCKS}
    settings = [f"engine.round_steps={round_steps}", f"engine.sampling={sampling}"]
    with ray_session(None):
        for turn in range(repeats):
            for blocks, measured in rates.items():
                records = idle_records(blocks, round_steps * (rounds // blocks), workers, NoopWorker, settings)
                measured.append(block_rate(records, [tuple(range(1, blocks + 1))]))  # as one: it is the coordinator's
                say(f"turn {turn + 1} of {repeats}, {blocks} blocks: {measured[-1]:,.0f} block-steps/s")
    return [_row(blocks, measured, round_steps) for blocks, measured in rates.items()]


def _row(blocks: int, rates: list[float], round_steps: int) -> dict[str, Any]:
    median = statistics.median(rates)
    return {
        "blocks": blocks,
        **rate_columns(rates),
        "block_rounds_per_second": median / round_steps,
        "microseconds_per_block_step": 1e6 / median,
    }
