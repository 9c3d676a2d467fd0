"""Memory of coordinator and object store while one block is ten times slower than the others.

The others run ever further ahead of it. What they leave behind must not pile up in memory.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from noprop_dist.bench.harness import Say
from noprop_dist.bench.live_run import LiveRun
from noprop_dist.engines.ray.loopback import loopback_cluster
from noprop_dist.records import RoundDone
from noprop_dist.stages import Stage

BLOCKS = 4
SLOW_BLOCK = 2
SLOW_SECONDS = 0.1
SETTINGS = [
    *(f"blocks.count={BLOCKS}", f"engine.workers={BLOCKS}", "training.max_steps=1000000"),
    *("checkpoint.every_steps=2000", "evaluation.samples=0", "metrics.port=null"),
    f"blocks.networks.{SLOW_BLOCK}={{kind: custom, path: 'noprop_dist.bench.networks:SleepingNetwork', "
    f"arguments: {{seconds: {SLOW_SECONDS}}}}}",
]
SAMPLE_SECONDS = 1.0
SHARED_MEMORY = "/dev/shm"
"""Where Ray's object stores lie; nothing else should use it while this is measured."""


@dataclass(frozen=True)
class MemorySample:
    """What was in use at one time.

    Attributes:
        seconds: since all blocks train.
        coordinator_bytes: resident set of the coordinator's process, mapped parts of the object store included.
        object_store_bytes: shared memory that the nodes' object stores have touched, their high-water mark.
        fastest_step: of any block.
        slowest_step: of any block.
    """

    seconds: float
    coordinator_bytes: int
    object_store_bytes: int
    fastest_step: int
    slowest_step: int


@dataclass(frozen=True)
class StragglerRow:
    """The most memory that was in use in one part of the time, and the steps at its end."""

    until_seconds: float
    coordinator_mib: float
    object_store_mib: float
    fastest_step: int
    slowest_step: int


def bench_straggler(seconds: float, folder: Path, say: Say) -> list[MemorySample]:
    """Sample memory about once a second.

    Args:
        seconds: how long.
        folder: for the run.
        say: told what is being measured.
    """
    samples: list[MemorySample] = []
    before = _shared_bytes()
    with loopback_cluster(2) as cluster:
        run = LiveRun(folder / "run", SETTINGS, cluster)
        try:
            run.wait_for("all blocks to train", lambda: len(_steps(run)) == BLOCKS)
            begun = time.monotonic()
            while (now := time.monotonic() - begun) < seconds:
                steps = _steps(run).values()
                store = _shared_bytes() - before
                samples.append(
                    MemorySample(now, _resident_bytes(run.pid("coordinator")), store, max(steps), min(steps))
                )
                if len(samples) % 30 == 0:
                    say(f"{now:.0f} of {seconds:.0f} s: fastest block at step {max(steps)}, slowest at {min(steps)}")
                time.sleep(SAMPLE_SECONDS)
        finally:
            run.end()
    return samples


def summary(samples: Sequence[MemorySample]) -> list[StragglerRow]:
    """A row for each fifth of the time."""
    fifth = max(1, len(samples) // 5)
    parts = [samples[first : first + fifth] for first in range(0, fifth * 5, fifth)]
    return [
        StragglerRow(
            until_seconds=part[-1].seconds,
            coordinator_mib=max(each.coordinator_bytes for each in part) / 2**20,
            object_store_mib=max(each.object_store_bytes for each in part) / 2**20,
            fastest_step=part[-1].fastest_step,
            slowest_step=part[-1].slowest_step,
        )
        for part in parts
        if part
    ]


def straggler_figure(samples: Sequence[MemorySample]) -> Figure:
    """Both over time, with the lead of the fastest block over the slow one."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    lead = axes.twinx()
    seconds = [each.seconds for each in samples]
    axes.plot(seconds, [each.coordinator_bytes / 2**20 for each in samples], label="coordinator, resident")
    axes.plot(seconds, [each.object_store_bytes / 2**20 for each in samples], label="object stores, high-water mark")
    lead.plot(seconds, [s.fastest_step - s.slowest_step for s in samples], color="grey", linestyle=":", label="lead")
    axes.set(title="One block ten times slower than the others", xlabel="seconds", ylabel="MiB", ylim=(0, None))
    lead.set(ylabel="lead of the fastest block (steps, dotted)", ylim=(0, None))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.25)
    return figure


def _steps(run: LiveRun) -> dict[Stage, int]:
    """The last step of every block that trained."""
    return {each.stage: each.step for each in run.records(RoundDone) if each.stage.is_block}


def _shared_bytes() -> int:
    return shutil.disk_usage(SHARED_MEMORY).used


def _resident_bytes(pid: int | None) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024
