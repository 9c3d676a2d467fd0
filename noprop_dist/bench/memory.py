"""Peak memory of a block worker, against end-to-end back-propagation through the same network, with T.

A block worker holds one of the T blocks, as it does where every block has a device; the baseline is one process that
holds them all, for its gradient passes through them all. A worker that holds one block after another is no measure:
parts of the object store that it has written snapshots into count as its memory, too.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from noprop_dist.bench.rates import ray_records, undisturbed
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.cluster import ray_session

BLOCKS = (10, 50)
SIDES = {
    "block_worker": ["engine.workers=1", "blocks.only=1"],
    "baseline": ["method=backprop", "engine.workers=1"],
}
MIB = 2**20


def bench_memory(
    preset: str, settings: Sequence[str], steps: int, repeats: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure both sides at every number of blocks, in turns; a row for each number.

    Args:
        preset: data and network.
        settings: further settings, as for `train`.
        steps: of every block, and of the baseline.
        repeats: turns.
        say: told what is being measured.
    """
    peaks: dict[tuple[str, int], list[float]] = {(side, blocks): [] for blocks in BLOCKS for side in SIDES}
    with ray_session(None):
        for turn in range(repeats):
            for (side, blocks), measured in peaks.items():
                measured.append(_peak(preset, [*settings, *SIDES[side], f"blocks.count={blocks}"], steps) / MIB)
                say(f"turn {turn + 1} of {repeats}, T = {blocks}, {side.replace('_', ' ')}: {measured[-1]:,.0f} MiB")
    return [
        {
            "blocks": blocks,
            **{f"{side}_mib": statistics.median(peaks[side, blocks]) for side in SIDES},
            **{f"{side}_turns": peaks[side, blocks] for side in SIDES},
        }
        for blocks in BLOCKS
    ]


def _peak(preset: str, settings: Sequence[str], steps: int) -> float:
    """Bytes: the most that any process which trains blocks took."""
    fixed = [*undisturbed(steps), f"engine.round_steps={min(steps, 16)}"]
    records = ray_records(load_config(preset, None, [*settings, *fixed]))
    peak: float = max(r["peak_memory_bytes"] for r in records if r["kind"] == "round" and r["stage"] != "classifier")
    return peak
