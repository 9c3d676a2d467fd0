"""What the engine itself costs for each block-step: blocks that do nothing, against their number.

A round takes its whole path: queues, actor calls, reports, records. So this is the most block-steps a second that one
coordinator can keep going on this machine, however fast the devices are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noprop_dist.bench.harness import Say, Spread, alternate, rate_in_words
from noprop_dist.bench.idle import NoopWorker, idle_records
from noprop_dist.bench.rates import block_rate
from noprop_dist.engines.ray.cluster import ray_session

BLOCKS = (10, 50, 100, 200)
ALLOWED_GROWTH = 1.25
"""Of the time per block-step, from the fewest blocks to the most."""


@dataclass(frozen=True)
class DispatchRow:
    """What was measured with a number of blocks."""

    blocks: int
    block_steps_per_second: Spread
    block_rounds_per_second: float
    microseconds_per_block_step: float


def bench_dispatch(
    rounds: int, round_steps: int, sampling: str, workers: int, repeats: int, say: Say
) -> list[DispatchRow]:
    """Measure every number of blocks, in turns; a row for each.

    Args:
        rounds: of all blocks together, in one turn.
        round_steps: steps in one round.
        sampling: who draws z: `worker` is the engine alone, `coordinator` adds the drawing of every batch.
        workers: processes.
        repeats: turns.
        say: told what is being measured.
    """
    settings = [f"engine.round_steps={round_steps}", f"engine.sampling={sampling}"]

    def measure(blocks: int, _: int) -> float:
        records = idle_records(blocks, round_steps * (rounds // blocks), workers, NoopWorker, settings)
        return block_rate(records, [tuple(range(1, blocks + 1))])  # as one process: the rate is the coordinator's

    with ray_session(None):
        sides = {blocks: partial(measure, blocks) for blocks in BLOCKS}
        rates = alternate(sides, repeats, say, rate_in_words, named=lambda blocks: f"{blocks} blocks")
    return [_row(blocks, Spread(figures), round_steps) for blocks, figures in rates.items()]


def dispatch_figure(rows: Sequence[DispatchRow]) -> Figure:
    """Microseconds that the engine costs for each block-step over the number of blocks, with the spread of turns."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes: Axes = figure.subplots()
    blocks, medians = [row.blocks for row in rows], [row.microseconds_per_block_step for row in rows]
    below = [row.microseconds_per_block_step - 1e6 / row.block_steps_per_second.most for row in rows]
    above = [1e6 / row.block_steps_per_second.least - row.microseconds_per_block_step for row in rows]
    axes.errorbar(blocks, medians, yerr=[below, above], marker="o", capsize=3)
    bound = f"{ALLOWED_GROWTH} × that of {blocks[0]} blocks"
    axes.axhline(ALLOWED_GROWTH * medians[0], color="grey", linestyle=":", label=bound)
    axes.set(title="Cost of coordination", xlabel="blocks", ylabel="µs per block-step", ylim=(0, None))
    axes.legend(loc="lower right")
    return figure


def _row(blocks: int, rate: Spread, round_steps: int) -> DispatchRow:
    return DispatchRow(blocks, rate, rate.median / round_steps, 1e6 / rate.median)
