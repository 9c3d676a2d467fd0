"""What the engine itself costs for each block-step: blocks that do nothing, against their number.

A round takes its whole path: queues, actor calls, reports, records. So this is the most block-steps a second that one
coordinator can keep going on this machine, however fast the devices are.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noprop_dist.bench.harness import Say, Spread, alternate
from noprop_dist.bench.idle import NoopWorker, idle_records
from noprop_dist.bench.rates import rate, round_times, window
from noprop_dist.bench.simulated_workers import simulated_records
from noprop_dist.engines.ray.cluster import ray_session

BLOCKS = (10, 100, 1000)
ALLOWED_GROWTH = 1.25
"""Of the time per block-step, from the fewest blocks to the most."""
SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class DispatchRow:
    """What was measured with a number of blocks.

    Attributes:
        blocks: T.
        workers: that hold them.
        block_steps_per_second: of all blocks.
        block_rounds_per_second: of all blocks, the median.
        microseconds_per_block_step: the median.
        cpu_percent: of one core that the coordinator's process took, all of its threads together; the median.
        cpu_microseconds_per_round: of these; the median.
    """

    blocks: int
    workers: int
    block_steps_per_second: Spread
    block_rounds_per_second: float
    microseconds_per_block_step: float
    cpu_percent: float
    cpu_microseconds_per_round: float


@dataclass(frozen=True)
class Dispatched:
    """One turn: block-steps per second, and cores that the coordinator's process took meanwhile."""

    rate: float
    cores: float

    def told(self) -> str:
        return f"{self.rate:,.1f} block-steps/s, {100 * self.cores:.0f} % of a core"


@dataclass
class CpuClock:
    """CPU seconds of this process over the time.

    Attributes:
        times: Unix seconds.
        seconds: of the CPU, at each of them.
    """

    times: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def look(self) -> None:
        self.times.append(time.time())
        self.seconds.append(time.process_time())

    def cores(self, begin: float, end: float) -> float:
        """How many cores the process took on average, between two times."""
        used = np.interp([begin, end], self.times, self.seconds)
        return float(used[1] - used[0]) / (end - begin)


@contextmanager
def cpu_clock() -> Iterator[CpuClock]:
    """Look at the CPU seconds of this process again and again, within a `with`."""
    clock, ended = CpuClock(), threading.Event()

    def watch() -> None:
        clock.look()
        while not ended.wait(SAMPLE_SECONDS):
            clock.look()
        clock.look()

    thread = threading.Thread(target=watch, name="CPU clock")
    thread.start()
    try:
        yield clock
    finally:
        ended.set()
        thread.join()


def bench_dispatch(
    blocks: Sequence[int],
    rounds: int,
    round_steps: int,
    sampling: str,
    workers: int,
    simulated_seconds: float | None,
    repeats: int,
    say: Say,
) -> list[DispatchRow]:
    """Measure every number of blocks, in turns; a row for each.

    Args:
        blocks: numbers of them.
        rounds: of all blocks together, in one turn.
        round_steps: steps in one round.
        sampling: who draws z: `worker` is the engine alone, `coordinator` adds the drawing of every batch.
        workers: processes.
        simulated_seconds: that each round takes a simulated worker, of which every block has one; None measures
            `workers` on Ray.
        repeats: turns.
        say: told what is being measured.
    """
    settings = [f"engine.round_steps={round_steps}", f"engine.sampling={sampling}"]

    def measure(count: int, _: int) -> Dispatched:
        steps = round_steps * max(1, rounds // count)
        with cpu_clock() as clock:
            if simulated_seconds is None:
                records = idle_records(count, steps, workers, NoopWorker, settings)
            else:
                records = simulated_records(count, steps, count, simulated_seconds, settings)
        times = round_times(records, [tuple(range(1, count + 1))])  # as one process: the rate is the coordinator's
        return Dispatched(rate(times), clock.cores(*window(times)))

    with ray_session(None) if simulated_seconds is None else nullcontext():
        sides = {count: partial(measure, count) for count in blocks}
        turns = alternate(sides, repeats, say, Dispatched.told, named=lambda count: f"{count} blocks")
    on_ray = simulated_seconds is None
    return [_row(count, workers if on_ray else count, figures, round_steps) for count, figures in turns.items()]


def dispatch_figure(rows: Sequence[DispatchRow]) -> Figure:
    """Microseconds that the engine costs for each block-step over the number of blocks, and the coordinator's CPU."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    cost, cpu = figure.subplots(1, 2)
    blocks, medians = [row.blocks for row in rows], [row.microseconds_per_block_step for row in rows]
    below = [row.microseconds_per_block_step - 1e6 / row.block_steps_per_second.most for row in rows]
    above = [1e6 / row.block_steps_per_second.least - row.microseconds_per_block_step for row in rows]
    cost.errorbar(blocks, medians, yerr=[below, above], marker="o", capsize=3)
    bound = f"{ALLOWED_GROWTH} × that of {blocks[0]} blocks"
    cost.axhline(ALLOWED_GROWTH * medians[0], color="grey", linestyle=":", label=bound)
    _of_blocks(cost, "Cost of coordination", "µs per block-step")
    cost.legend(loc="lower right")
    cpu.plot(blocks, [row.cpu_microseconds_per_round for row in rows], marker="o")
    _of_blocks(cpu, "Of it the coordinator's CPU", "µs of a core per round")
    return figure


def _of_blocks(axes: Axes, title: str, what: str) -> None:
    axes.set(title=title, xlabel="blocks", xscale="log", ylabel=what, ylim=(0, 1.1 * axes.get_ylim()[1]))


def _row(blocks: int, workers: int, turns: Sequence[Dispatched], round_steps: int) -> DispatchRow:
    rates = Spread([each.rate for each in turns])
    cores = Spread([each.cores for each in turns]).median
    each_round = Spread([1e6 * each.cores * round_steps / each.rate for each in turns]).median
    rounds = rates.median / round_steps
    return DispatchRow(blocks, workers, rates, rounds, 1e6 / rates.median, 100 * cores, each_round)
