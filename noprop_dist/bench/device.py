"""Block-steps per second on one device, for each way of running the blocks, against a plain loop over them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from noprop_dist.bench.harness import Say, Spread, alternate, rate_in_words
from noprop_dist.bench.ways import OwnTrainers, PlainLoop, Rounds, Stacked, Way
from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import Precision, RunConfig
from noprop_dist.data.dataset import DataSet, Split, assemble
from noprop_dist.errors import UserError
from noprop_dist.random_streams import Purpose, stream
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import block
from noprop_dist.torch_device import choose_device
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.device import start_computing
from noprop_dist.training.setup import RunSetup, check, run_setup

PLAIN: tuple[str, Precision] = ("plain loop", "float32")
GPU_LANES = (4, 8)
MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}
MADE_UP_SAMPLES = 10_000
SHAPES = {
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
}
"""Of one image, and the number of classes."""


@dataclass(frozen=True)
class Turn:
    """Block-steps per second, and ‖û_t − u_y‖² at the end."""

    rate: float
    error: float


@dataclass(frozen=True)
class DeviceRow:
    """What was measured of one way; `percent_of_peak` is of a large matrix product, `error` that of the last turn."""

    way: str
    precision: Precision
    block_steps_per_second: Spread
    times_plain: float
    gigaflop_per_second: float
    percent_of_peak: float
    error: float


def bench_device(
    preset: str, settings: Sequence[str], wanted: str, made_up: bool, steps: int, repeats: int, say: Say
) -> list[DeviceRow]:
    """Measure all ways in turns, after a turn that is not counted; a row for each.

    Args:
        preset: data and network.
        settings: further settings, as for `train`.
        wanted: `auto`, `cpu` or `cuda`.
        made_up: take random images of the data's size.
        steps: of every block in one turn.
        repeats: turns.
        say: told what is being measured.

    Raises:
        UserError: there is no such device or data.
    """
    device = choose_device(wanted)
    fixed = [f"engine.device={device.type}", "engine.kind=sequential"]
    setup, data = _prepared(load_config(preset, None, [*settings, *fixed]), made_up)

    def varied(*more: str) -> RunSetup:
        config = load_config(preset, None, [*settings, *fixed, *more])
        return replace(setup, plan=replace(setup.plan, config=config))

    @lru_cache(1)
    def rounds(turn: int) -> Rounds:
        return _rounds(setup, data, turn * steps, steps)

    def measure(way: Way, turn: int) -> Turn:
        work = rounds(turn)  # drawn before the clock starts
        begun = time.perf_counter()
        error = way.run(work)
        return Turn(len(work) * steps / (time.perf_counter() - begun), error)

    sides = {side: partial(measure, way) for side, way in _ways(setup, data, device, varied).items()}
    turns = alternate(sides, repeats, say, lambda turn: rate_in_words(turn.rate), ", ".join, warm_ups=1)
    return _rows(turns, device, setup)


def device_figure(rows: Sequence[DeviceRow]) -> Figure:
    """Block-steps per second of each way of running the blocks, with the spread of turns."""
    figure = Figure(figsize=(8, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes: Axes = figure.subplots()
    names, rates = [f"{row.way} ({row.precision})" for row in rows], [row.block_steps_per_second for row in rows]
    spread = [[rate.median - rate.least for rate in rates], [rate.most - rate.median for rate in rates]]
    bars = axes.barh(names, [rate.median for rate in rates], xerr=spread, capsize=3)
    axes.bar_label(bars, [f" {row.times_plain:.2f} ×" for row in rows], padding=6)
    axes.invert_yaxis()
    axes.set(title="Ways of running the blocks of one device", xlabel="block-steps per second")
    axes.margins(x=0.15)
    return figure


def made_up_data(config: RunConfig) -> DataSet:
    """Random images and labels of the data's size, to measure speed without the data itself.

    Raises:
        UserError: the size of the data set is not known without it.
    """
    name = config.data.name
    if name not in SHAPES:
        raise UserError(f"--made-up: the size of data.name={name} is not known; allowed are {', '.join(SHAPES)}")
    shape, classes = SHAPES[name]
    draw = stream(config.seed, Purpose.SPLIT)
    images = draw.integers(0, 256, (MADE_UP_SAMPLES, *shape), dtype=np.uint8)
    whole = Split(images, draw.integers(0, classes, MADE_UP_SAMPLES))
    names = tuple(str(label) for label in range(classes))
    return assemble(name, whole, whole.subset(np.arange(classes)), names, config.data.validation_fraction)


def _prepared(config: RunConfig, made_up: bool) -> tuple[RunSetup, DataSet]:
    data = made_up_data(config) if made_up else check(config)[1]
    return run_setup(RunPlan(config, data.facts, on_gpu=config.engine.device == "cuda"), data), data


def _rounds(setup: RunSetup, data: DataSet, first_step: int, steps: int) -> Rounds:
    """The rounds of every block for so many steps."""
    batches, size = setup.batch_stream(data.train.labels), setup.plan.round_steps
    pieces = [(first_step + first, min(size, steps - first)) for first in range(0, steps, size)]
    return {
        t: [batches.round(RoundKey(block(t), first, number)) for first, number in pieces]
        for t in setup.config.blocks.trained()
    }


def _ways(
    setup: RunSetup, data: DataSet, device: torch.device, varied: Callable[..., RunSetup]
) -> dict[tuple[str, Precision], Way]:
    """All that make sense on the device, by name and precision."""
    on_gpu = device.type == "cuda"
    ways: dict[tuple[str, Precision], Way] = {PLAIN: PlainLoop(setup, data, device)}
    precisions: tuple[Precision, ...] = ("float32", "tf32", "bfloat16") if on_gpu else ("float32", "bfloat16")
    for precision in precisions:
        by_call = varied(f"training.precision={precision}", "engine.cuda_graphs=never")
        ways["call by call", precision] = OwnTrainers(by_call, data, device)
        if not on_gpu:
            other = varied(f"training.precision={precision}", "training.channels_last=false")
            ways["call by call, channels first", precision] = OwnTrainers(other, data, device)
        captured = varied(f"training.precision={precision}", "engine.cuda_graphs=always")
        for lanes in (1, *GPU_LANES) if on_gpu else ():
            together = f", {lanes} blocks at once" if lanes > 1 else ""
            ways[f"captured{together}", precision] = OwnTrainers(captured, data, device, lanes)
        if not setup.config.blocks.networks and not setup.config.embedding.is_learned:
            ways["stacked, captured" if on_gpu else "stacked", precision] = Stacked(captured, data, device)
    return ways


def flop_of_a_step(setup: RunSetup) -> int:
    """Floating-point operations of the matrix products and convolutions of one block-step, forward and backward."""
    network, batch = setup.plan.block_network(1).train(), setup.config.training.batch_size
    x, z = torch.zeros(batch, *setup.plan.facts.input_shape), torch.zeros(batch, setup.plan.embedding_dim)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(network(x, z).sum())
    total: int = counter.get_total_flops()
    return total


def matmul_rate(device: torch.device, precision: Precision, setup: RunSetup) -> float:
    """Operations per second of a large matrix product: the peak that can be had of the unit that does them."""
    start_computing(device.type, setup.config.engine.threads_per_worker, precision)
    side = MATRIX_SIDE[device.type]
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(13):
        begun = time.perf_counter()
        float((a @ b)[0, 0])  # reading waits for the device
        seconds.append(time.perf_counter() - begun)
    return 2 * side**3 / statistics.median(seconds[3:])


def _rows(turns: dict[tuple[str, Precision], list[Turn]], device: torch.device, setup: RunSetup) -> list[DeviceRow]:
    flop = flop_of_a_step(setup)
    peaks = {precision: matmul_rate(device, precision, setup) for precision in dict.fromkeys(p for _, p in turns)}
    rates = {side: Spread([turn.rate for turn in each]) for side, each in turns.items()}
    return [
        DeviceRow(
            way=way,
            precision=precision,
            block_steps_per_second=rate,
            times_plain=rate.median / rates[PLAIN].median,
            gigaflop_per_second=rate.median * flop / 1e9,
            percent_of_peak=100 * rate.median * flop / peaks[precision],
            error=turns[way, precision][-1].error,
        )
        for (way, precision), rate in rates.items()
    ]
