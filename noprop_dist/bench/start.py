"""Seconds from `noprop-dist train` to the first block-step and to the result, and what they went into."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noprop_dist.bench.harness import Say, Spread
from noprop_dist.errors import TrainingError
from noprop_dist.reporting.timeline import Span, first_block_step, timeline_of
from noprop_dist.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class Start:
    """One command: seconds from its beginning, and its timeline."""

    first_step: float
    result: float
    spans: Sequence[Span]


@dataclass(frozen=True)
class StartRow:
    """A row of the table: seconds from the command, of every run."""

    until: str
    median: Spread


@dataclass(frozen=True)
class PhaseRow:
    """A phase of one process: seconds from its start to its beginning and its end, medians over the runs."""

    process: str
    phase: str
    began: float
    ended: float
    runs: int


def bench_start(preset: str, settings: Sequence[str], repeats: int, say: Say) -> list[Start]:
    """Train from the command line, `repeats` times.

    Args:
        preset: of the run.
        settings: over it.
        repeats: runs.
        say: told the figures of each.

    Raises:
        TrainingError: a run failed.
    """
    starts = []
    for number in range(repeats):
        with tempfile.TemporaryDirectory(prefix="noprop-dist-bench-") as folder:
            start = _start(preset, settings, Path(folder) / "run")
        told = f"first block-step {start.first_step:.2f} s, result {start.result:.2f} s"
        say(f"run {number + 1} of {repeats}: {told}")
        starts.append(start)
    return starts


def _start(preset: str, settings: Sequence[str], run: Path) -> Start:
    options = [part for each in settings for part in ("--set", each)]
    command = [sys.executable, "-m", "noprop_dist", "train", "--preset", preset, "--run-dir", str(run), *options]
    began = time.time()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    ended = time.time()
    if done.returncode:
        raise TrainingError(f"{' '.join(command)}: ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    records = RunDirectory(str(run)).metrics()
    first = first_block_step(records)
    if first is None:
        raise TrainingError(f"{' '.join(command)}: trained no block")
    return Start(first - began, ended - began, timeline_of(records))


def start_rows(starts: Sequence[Start]) -> list[StartRow]:
    """What the runs took."""
    return [
        StartRow("first block-step", Spread([each.first_step for each in starts])),
        StartRow("result", Spread([each.result for each in starts])),
    ]


def phase_rows(starts: Sequence[Start]) -> list[PhaseRow]:
    """The timeline: a row for each phase of each process, by its beginning."""
    spans: dict[tuple[str, str], list[Span]] = {}
    for span in (span for start in starts for span in start.spans):
        spans.setdefault((span.process, span.phase), []).append(span)
    rows = [
        PhaseRow(
            *(process, phase),
            statistics.median(each.began for each in same),
            statistics.median(each.ended for each in same),
            len(same),
        )
        for (process, phase), same in spans.items()
    ]
    return sorted(rows, key=lambda row: row.began)
