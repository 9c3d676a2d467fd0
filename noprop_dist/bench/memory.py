"""Peak memory of a block worker, against end-to-end back-propagation through the same network, with T.

A block worker holds one of the T blocks, as it does where every block has a device. The baseline is one process that
holds them all, for its gradient passes through them all. A worker that holds one block after another is no measure: the
parts of the object store that it wrote snapshots into count as its memory, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noprop_dist.bench.harness import Say, Spread, alternate
from noprop_dist.bench.rates import ray_records, undisturbed
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.cluster import ray_session
from noprop_dist.records import RoundDone
from noprop_dist.reporting.summary import of_kind
from noprop_dist.stages import CLASSIFIER

BLOCKS = (10, 50)
BLOCK_WORKER, BASELINE = "block worker", "baseline"
SIDES = {
    BLOCK_WORKER: ["engine.workers=1", "blocks.only=1"],
    BASELINE: ["method=backprop", "engine.workers=1"],
}
MIB = 2**20


@dataclass(frozen=True)
class MemoryRow:
    """Peak memory with T = `blocks`: the median, and every turn."""

    blocks: int
    block_worker_mib: float
    baseline_mib: float
    block_worker_turns: Sequence[float]
    baseline_turns: Sequence[float]


def bench_memory(preset: str, settings: Sequence[str], steps: int, repeats: int, say: Say) -> list[MemoryRow]:
    """Measure both sides at every number of blocks, in turns; a row for each number.

    Args:
        preset: data and network.
        settings: further settings, as for `train`.
        steps: of every block, and of the baseline.
        repeats: turns.
        say: told what is being measured.
    """

    def measure(side: str, blocks: int, _: int) -> float:
        return _peak_bytes(preset, [*settings, *SIDES[side], f"blocks.count={blocks}"], steps) / MIB

    sides = {(side, blocks): partial(measure, side, blocks) for blocks in BLOCKS for side in SIDES}
    with ray_session(None):
        peaks = alternate(sides, repeats, say, lambda mib: f"{mib:,.0f} MiB", lambda side: f"{side[0]}, T = {side[1]}")
    return [_row(blocks, peaks[BLOCK_WORKER, blocks], peaks[BASELINE, blocks]) for blocks in BLOCKS]


def growth(rows: Sequence[MemoryRow]) -> dict[str, float]:
    """Memory with the most blocks over that with the fewest, of each side."""
    first, last = rows[0], rows[-1]
    return {
        "block_worker": last.block_worker_mib / first.block_worker_mib,
        "baseline": last.baseline_mib / first.baseline_mib,
    }


def memory_figure(rows: Sequence[MemoryRow]) -> Figure:
    """Peak memory over the number of blocks."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes: Axes = figure.subplots()
    blocks = [row.blocks for row in rows]
    axes.plot(blocks, [row.block_worker_mib for row in rows], marker="o", label=BLOCK_WORKER)
    axes.plot(blocks, [row.baseline_mib for row in rows], marker="o", label=BASELINE)
    axes.set(title="Peak memory of a process", xlabel="blocks T", ylabel="MiB", ylim=(0, None))
    axes.legend()
    return figure


def _row(blocks: int, block_worker: Sequence[float], baseline: Sequence[float]) -> MemoryRow:
    return MemoryRow(blocks, Spread(block_worker).median, Spread(baseline).median, block_worker, baseline)


def _peak_bytes(preset: str, settings: Sequence[str], steps: int) -> int:
    """The most that any process took which trains blocks or the baseline's network."""
    fixed = [*undisturbed(steps), f"engine.round_steps={min(steps, 16)}"]
    rounds = of_kind(ray_records(load_config(preset, None, [*settings, *fixed])), RoundDone)
    return max(each.peak_memory_bytes for each in rounds if each.stage != CLASSIFIER)
