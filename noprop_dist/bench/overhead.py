"""What the Ray engine costs over bare torch processes that do the very same block-steps.

Both sides train the same blocks from the same streams (sampling included) in the same rounds, with as many
processes and threads.
"""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from noprop_dist.bench.harness import Say, SideRow, Spread, alternate, rate_in_words
from noprop_dist.bench.rates import RoundTime, placed, rate, ray_rate, undisturbed
from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import RunConfig
from noprop_dist.engines.ray.cluster import ray_session
from noprop_dist.errors import TrainingError
from noprop_dist.stages import block
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.device import start_thread
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare

PROCESS_TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class OverheadResult:
    """Block-steps per second of both sides."""

    ray: Spread
    bare: Spread

    @property
    def ratio(self) -> float:
        """Median of the Ray engine over median of the bare processes."""
        return self.ray.median / self.bare.median

    def rows(self) -> list[SideRow]:
        return [SideRow("Ray engine", self.ray), SideRow("bare processes", self.bare)]


def bench_overhead(
    preset: str, settings: Sequence[str], device: str, steps: int, repeats: int, workers: int, say: Say
) -> OverheadResult:
    """Measure both sides in turns.

    Args:
        preset: data and network.
        settings: further settings, as for `train`.
        device: `cpu` or `cuda`.
        steps: of every block in one turn.
        repeats: turns of each side.
        workers: processes of each side, one thread each.
        say: told what is being measured.
    """
    config = load_config(preset, None, [*settings, *undisturbed(steps, workers), f"engine.device={device}"])
    sides = {
        "bare processes": lambda _: rate(_bare_turn(config, workers)),
        "Ray engine": lambda _: ray_rate(config, workers),
    }
    with ray_session(None):
        bare, ray = alternate(sides, repeats, say, rate_in_words).values()
    return OverheadResult(Spread(ray), Spread(bare))


def _bare_turn(config: RunConfig, workers: int) -> list[RoundTime]:
    context, placement = multiprocessing.get_context("spawn"), placed(config, workers)
    results: Any = context.Queue()
    processes = [
        context.Process(target=_bare_process, args=(config, process, part, placement.lanes, results), daemon=True)
        for process, part in enumerate(worker.blocks for worker in placement.workers)
    ]
    for process in processes:
        process.start()
    try:
        return [each for _ in processes for each in results.get(timeout=PROCESS_TIMEOUT_SECONDS)]
    except Exception as error:
        raise TrainingError(f"a bare process did not finish: {type(error).__name__}") from error
    finally:
        for process in processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()


def _bare_process(config: RunConfig, process: int, blocks: tuple[int, ...], lanes: int, results: Any) -> None:
    setup, data = prepare(config)
    device = setup.start_computing()
    setup = setup.on(device.type == "cuda")
    stream, samples = setup.batch_stream(data.train.labels), setup.training_samples(data.train.inputs, device)

    def train(part: tuple[int, ...]) -> list[RoundTime]:
        start_thread(device, config.engine.threads_per_worker)
        trainers = {t: setup.block_trainer(t, samples, device) for t in part}
        times = []
        for first, steps in _rounds(setup.plan.total_steps, setup.plan.round_steps):
            for t, trainer in trainers.items():
                train_round(trainer, stream.round(RoundKey(block(t), first, steps)))
                times.append(RoundTime(process, time.time(), steps))
        return times

    with ThreadPoolExecutor(lanes) as threads:
        of_lanes = threads.map(train, [blocks[lane::lanes] for lane in range(lanes)])
        results.put([each for times in of_lanes for each in times])


def _rounds(total_steps: int, size: int) -> Iterator[tuple[int, int]]:
    """(first step, steps) of each round; ends early if the process that waits for the result is gone."""
    parent = multiprocessing.parent_process()
    for first in range(0, total_steps, size):
        if parent is not None and not parent.is_alive():
            return
        yield first, min(size, total_steps - first)
