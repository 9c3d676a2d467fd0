"""Runs of the Ray engine that are measured, and block-steps per second while all of their processes are at work.

The window begins when the last process has finished a quarter of its rounds: by then start-up is over, in the engine's
other actors too. It ends when the first process is done.
"""

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from noprop_dist.api import Watcher, train
from noprop_dist.config.schema import RunConfig
from noprop_dist.engines.core.placement import Placement, Resources, place_run
from noprop_dist.errors import UserError
from noprop_dist.records import Record, RoundDone
from noprop_dist.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class RoundTime:
    """When a process finished a round, and how many block-steps it was."""

    process: int
    time: float
    steps: int


def rate(rounds: Sequence[RoundTime]) -> float:
    """Block-steps per second while all processes were at work.

    Raises:
        UserError: they never were: some had ended before others had begun.
    """
    begin, end = window(rounds)
    return sum(r.steps for r in rounds if begin < r.time <= end) / (end - begin)


def window(rounds: Sequence[RoundTime]) -> tuple[float, float]:
    """When all processes were at work, from and to.

    Raises:
        UserError: they never were.
    """
    times = defaultdict[int, list[float]](list)
    for each in rounds:
        times[each.process].append(each.time)
    in_order = [sorted(each) for each in times.values()]
    begin, end = max(each[len(each) // 4] for each in in_order), min(each[-1] for each in in_order)
    if end <= begin:
        raise UserError("--steps: too few, for the processes of one turn were never all at work at the same time")
    return begin, end


def undisturbed(steps: int, workers: int | None = None) -> list[str]:
    """Settings of a run that nobody evaluates or scrapes, with one checkpoint, at its end.

    Args:
        steps: of every block.
        workers: processes that train blocks, one thread each; as many as fit the machine by default.
    """
    placed_on = [] if workers is None else [f"engine.workers={workers}", "engine.threads_per_worker=1"]
    once = [f"training.max_steps={steps}", f"checkpoint.every_steps={steps}"]
    return [*once, *placed_on, "evaluation.samples=0", "metrics.port=null"]


def ray_rate(config: RunConfig, workers: int) -> float:
    """Block-steps per second of one run of the Ray engine in a folder that is deleted again."""
    return block_rate(ray_records(config), parts(config, workers))


def ray_records(config: RunConfig) -> list[Record]:
    """The records of one run of the Ray engine in a folder that is deleted again."""
    with tempfile.TemporaryDirectory(prefix="noprop-dist-bench-") as folder:
        train(config, f"{folder}/run", watcher=Watcher())
        return RunDirectory(f"{folder}/run").metrics()


def block_rate(records: Sequence[Record], blocks_of_workers: Sequence[tuple[int, ...]]) -> float:
    """Block-steps per second from a run's records.

    Args:
        records: of the run.
        blocks_of_workers: which blocks each process trained.
    """
    return rate(round_times(records, blocks_of_workers))


def round_times(records: Sequence[Record], blocks_of_workers: Sequence[tuple[int, ...]]) -> list[RoundTime]:
    """The rounds of blocks among a run's records, by the processes that trained them; see `block_rate`."""
    process_of = {block: process for process, part in enumerate(blocks_of_workers) for block in part}
    blocks = [record for record in records if isinstance(record, RoundDone) and record.stage.is_block]
    return [RoundTime(process_of[each.stage.index], each.time, each.steps) for each in blocks]


def placed(config: RunConfig, workers: int) -> Placement:
    """The placement of a run on this machine's GPUs, or on so many cores."""
    return place_run(config, Resources(workers, torch.cuda.device_count()))


def parts(config: RunConfig, workers: int) -> list[tuple[int, ...]]:
    """The blocks of each worker."""
    return [worker.blocks for worker in placed(config, workers).workers]
