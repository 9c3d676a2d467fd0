"""Block-steps per second on one device, for each way of running the blocks, against a plain loop over them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from noprop_dist.bench.made_up import made_up_data
from noprop_dist.bench.spread import rate_columns
from noprop_dist.bench.ways import OwnTrainers, PlainLoop, Rounds, Stacked, Way
from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import Precision, RunConfig
from noprop_dist.data.dataset import DataSet
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.device import choose_device, start_computing
from noprop_dist.training.preparation import prepare
from noprop_dist.training.setup import RunSetup

PLAIN = "plain loop"
GPU_LANES = (4, 8)
MATRIX_SIDE = {"cuda": 8192, "cpu": 1024}


def bench_device(
    preset: str,
    settings: Sequence[str],
    wanted: str,
    made_up: bool,
    steps: int,
    repeats: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
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
    config = load_config(preset, None, [*settings, *fixed])
    setup, data = _prepared(config, made_up)

    def varied(*more: str) -> RunSetup:
        return replace(setup, config=load_config(preset, None, [*settings, *fixed, *more]))

    ways = _ways(setup, data, device, varied)
    size, blocks = setup.round_steps, setup.config.blocks.trained()
    stream = setup.batch_stream(data.train.labels)
    rates: dict[tuple[str, Precision], list[float]] = {key: [] for key in ways}
    errors: dict[tuple[str, Precision], float] = {}
    for turn in range(repeats + 1):
        pieces = [(first, min(size, steps - first)) for first in range(0, steps, size)]
        rounds: Rounds = {
            block: [stream.round(RoundKey(block, turn * steps + first, number)) for first, number in pieces]
            for block in blocks
        }
        for key, way in ways.items():
            begun = time.perf_counter()
            errors[key] = way.run(rounds)
            rates[key].append(len(blocks) * steps / (time.perf_counter() - begun))
            which = f"turn {turn} of {repeats}" if turn else "warm-up"
            say(f"{which}, {', '.join(key)}: {rates[key][-1]:,.1f} block-steps/s")
    flop = flop_of_a_step(setup)
    peaks = {precision: matmul_rate(device, precision, setup) for precision in {precision for _, precision in ways}}
    plain = statistics.median(rates[PLAIN, "float32"][1:])
    return [_row(*key, each[1:], errors[key], flop, peaks[key[1]], plain) for key, each in rates.items()]


def _prepared(config: RunConfig, made_up: bool) -> tuple[RunSetup, DataSet]:
    if made_up:
        data = made_up_data(config)
        setup = RunSetup(config, data.facts)
    else:
        setup, data = prepare(config)
    return replace(setup, on_gpu=config.engine.device == "cuda"), data


def _ways(
    setup: RunSetup, data: DataSet, device: torch.device, varied: Callable[..., RunSetup]
) -> dict[tuple[str, Precision], Way]:
    """All that make sense on the device, by name and precision."""
    on_gpu = device.type == "cuda"
    ways: dict[tuple[str, Precision], Way] = {(PLAIN, "float32"): PlainLoop(setup, data, device)}
    precisions: tuple[Precision, ...] = ("float32", "tf32", "bfloat16") if on_gpu else ("float32", "bfloat16")
    for precision in precisions:
        by_call = varied(f"training.precision={precision}", "engine.cuda_graphs=never")
        ways["call by call", precision] = OwnTrainers(by_call, data, device)
        if not on_gpu:
            other = varied(f"training.precision={precision}", "training.channels_last=false")
            ways["call by call, channels first", precision] = OwnTrainers(other, data, device)
        recorded = varied(f"training.precision={precision}", "engine.cuda_graphs=always")
        for lanes in (1, *GPU_LANES) if on_gpu else ():
            together = f", {lanes} blocks at once" if lanes > 1 else ""
            ways[f"recorded{together}", precision] = OwnTrainers(recorded, data, device, lanes)
        if not setup.config.blocks.networks and not setup.config.embedding.is_learned:
            ways["stacked, recorded" if on_gpu else "stacked", precision] = Stacked(recorded, data, device)
    return ways


def flop_of_a_step(setup: RunSetup) -> int:
    """Floating-point operations of the matrix products and convolutions of one block-step, forward and backward."""
    network, batch = setup.block_network(1).train(), setup.config.training.batch_size
    x, z = torch.zeros(batch, *setup.facts.input_shape), torch.zeros(batch, setup.embedding_dim)
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


def _row(
    way: str, precision: Precision, rates: list[float], error: float, flop: int, peak: float, plain: float
) -> dict[str, Any]:
    median = statistics.median(rates)
    return {
        "way": way,
        "precision": precision,
        **rate_columns(rates),
        "times_plain": median / plain,
        "gigaflop_per_second": median * flop / 1e9,
        "percent_of_peak": 100 * median * flop / peak,
        "error": error,
    }
