"""Private memory of every process of a run over a long time: whether each levels off."""

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from noprop_dist.bench.harness import Say
from noprop_dist.bench.live_run import LiveRun
from noprop_dist.engines.ray.loopback import loopback_cluster
from noprop_dist.errors import TrainingError
from noprop_dist.records import RoundDone

SLEEPING = "{kind: custom, path: 'noprop_dist.bench.networks:SleepingNetwork', arguments: {seconds: 0.2}}"
SETTINGS = [
    *("blocks.count=2", "engine.workers=2", "training.max_steps=100000000", f"blocks.network={SLEEPING}"),
    *("embedding.kind=learned", "embedding.sync_steps=1", "engine.round_steps=1"),
    *("checkpoint.every_steps=200", "evaluation.samples=256", "metrics.port=0"),
]
"""About 20 rounds a second, at a fraction of a core: with W_embed learned at every step no stage runs ahead of the
blocks, which sleep."""
SAMPLE_SECONDS = 5.0
MIB = 2**20
GCS, DRIVER = "Ray's GCS", "driver"
ROLES = {
    "gcs_server": GCS,
    "raylet/raylet": "Ray's raylets",
    "ray::Coordinator": "coordinator",
    "ray::BlockWorker": "block workers",
    "ray::ClassifierWorker": "classifier worker",
    "ray::Evaluator": "evaluator",
    "noprop_dist train": DRIVER,
    "ray/": "Ray's agents and monitors",
}
"""What a command line has in it, and whose it is; the first one counts."""


@dataclass(frozen=True)
class SoakSample:
    """Private resident memory at one time, without the object store's pages.

    Attributes:
        seconds: since the first round.
        bytes_of: each role's processes together.
    """

    seconds: float
    bytes_of: Mapping[str, int]


@dataclass(frozen=True)
class SoakRow:
    """One role's memory: near the beginning, in the middle, at the end, and how fast it grew in the second half."""

    role: str
    mib_at_a_tenth: float
    mib_at_half: float
    mib_at_end: float
    mib_per_hour: float


@dataclass(frozen=True)
class Soak:
    """All samples, and the rounds that were trained meanwhile."""

    samples: Sequence[SoakSample]
    rounds_per_second: float

    @property
    def rows(self) -> list[SoakRow]:
        """A row for each role, the fastest growing first."""
        roles = {role for sample in self.samples for role in sample.bytes_of}
        return sorted((_row(role, self.samples) for role in roles), key=lambda row: -row.mib_per_hour)


def bench_soak(minutes: float, settings: Sequence[str], folder: Path, say: Say) -> Soak:
    """Watch the processes of a run.

    Args:
        minutes: how long.
        settings: further settings, as for `train`.
        folder: for the run.
        say: told once a minute how far it is.

    Raises:
        TrainingError: the run ended meanwhile.
    """
    samples: list[SoakSample] = []
    with loopback_cluster(2) as cluster:
        run = LiveRun(folder / "run", [*SETTINGS, *settings], cluster)
        try:
            run.wait_for("the first round", lambda: run.records(RoundDone) != [])
            begun, told = time.monotonic(), 0.0
            while (now := time.monotonic() - begun) < 60 * minutes:
                if not run.running:
                    raise TrainingError(f"the run ended after {now:.0f} s:\n{run.log()[-2000:]}")
                samples.append(SoakSample(now, private_bytes(os.getpid())))
                if now - told >= 60:
                    told = now
                    say(f"{now / 60:.0f} of {minutes:.0f} min: GCS {samples[-1].bytes_of[GCS] / MIB:.0f} MiB")
                time.sleep(SAMPLE_SECONDS)
            rounds = len(run.records(RoundDone))
        finally:
            run.end()
    return Soak(samples, rounds / samples[-1].seconds)


def soak_figure(soak: Soak) -> Figure:
    """Every role over time, with its growth in the second half."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    minutes = [sample.seconds / 60 for sample in soak.samples]
    for row in soak.rows:
        mib = [sample.bytes_of.get(row.role, 0) / MIB for sample in soak.samples]
        axes.plot(minutes, mib, label=f"{row.role} ({row.mib_per_hour:+.1f} MiB/h)")
    axes.set(title=f"Private memory at {soak.rounds_per_second:.0f} rounds/s", xlabel="minutes", ylabel="MiB")
    axes.set_ylim(0, None)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", title="growth in the second half")
    axes.grid(alpha=0.25)
    return figure


def private_bytes(ancestor: int) -> dict[str, int]:
    """Private resident bytes of all processes below one, by role."""
    found: dict[str, int] = defaultdict(int)
    for pid in _descendants(ancestor):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # it has just ended
            continue
        role = next((role for part, role in ROLES.items() if part in command), None)
        resident = next((line for line in status.splitlines() if line.startswith("RssAnon")), None)
        if role is not None and resident is not None:
            found[role] += int(resident.split()[1]) * 1024
    return dict(found)


def _descendants(ancestor: int) -> Iterator[int]:
    children: dict[int, list[int]] = defaultdict(list)
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                fields = (process / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children[int(fields[1])].append(int(process.name))
    waiting = [ancestor]
    while waiting:
        below = children[waiting.pop()]
        yield from below
        waiting += below


def _row(role: str, samples: Sequence[SoakSample]) -> SoakRow:
    mib = [sample.bytes_of.get(role, 0) / MIB for sample in samples]
    half = len(mib) // 2
    hours = [sample.seconds / 3600 for sample in samples[half:]]
    slope = float(np.polyfit(hours, mib[half:], 1)[0]) if len(hours) > 1 else 0.0
    return SoakRow(role, mib[len(mib) // 10], mib[half], mib[-1], slope)
