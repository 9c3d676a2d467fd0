"""What the others feel while one worker is killed again and again (nothing), and how long it is away each time.

One run on two nodes of one core each, a worker with two blocks on either. Phases in turns: undisturbed, and with
worker 2 killed whenever it trains again. The rate is that of worker 1's blocks.
"""

import os
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noprop_dist.bench.live_run import LiveRun
from noprop_dist.bench.spread import spread
from noprop_dist.engines.ray.loopback import loopback_cluster
from noprop_dist.storage.checkpoint_files import Record

SETTINGS = [
    *("blocks.count=4", "engine.blocks_per_worker=2", "engine.max_failures=-1", "training.max_steps=1000000"),
    *("checkpoint.every_steps=1000000", "evaluation.samples=0", "metrics.port=null"),
]
OTHERS = ("block 1", "block 2")
VICTIM = "block worker 2"
SETTLE_SECONDS = 2.0
"""After it trains again, before it is killed again; and between phases."""


@dataclass(frozen=True)
class Absence:
    """How long a killed worker was away, in seconds.

    Attributes:
        noticed: from the kill until the coordinator knew.
        started: until its new process had started, imported all it needs and was ready.
        trained: until the first round of a block was done: state restored, torch's lazy imports, the round itself.
    """

    noticed: float
    started: float
    trained: float

    @property
    def total(self) -> float:
        """From the kill until a first round was done."""
        return self.noticed + self.started + self.trained


@dataclass
class IsolationResult:
    """Block-steps per second of the others in each phase, and each absence of the killed worker."""

    undisturbed: list[float] = field(default_factory=list)
    killing: list[float] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Median while killing over median undisturbed."""
        return statistics.median(self.killing) / statistics.median(self.undisturbed)

    def rows(self) -> list[dict[str, Any]]:
        """Rates of the others, then the parts of the absences (seconds)."""
        named = {"others undisturbed (block-steps/s)": self.undisturbed, "others while killing": self.killing}
        for part in ("noticed", "started", "trained", "total"):
            named[f"killed worker: {part} (s)"] = [getattr(each, part) for each in self.absences]
        return [spread(side, values) for side, values in named.items()]


def bench_isolation(seconds: float, repeats: int, folder: Path, say: Callable[[str], None]) -> IsolationResult:
    """Measure both kinds of phase in turns within one run.

    Args:
        seconds: of one phase.
        repeats: phases of each kind.
        folder: for the run.
        say: told what is being measured.
    """
    result = IsolationResult()
    with loopback_cluster(2) as cluster:
        run = LiveRun(folder / "run", SETTINGS, cluster)
        try:
            run.wait_for("all blocks to train", lambda: len({r["stage"] for r in run.records("round")}) == 5)
            for turn in range(repeats):
                time.sleep(SETTLE_SECONDS)
                result.undisturbed.append(_rate(run, seconds, lambda _: None))
                result.killing.append(_rate(run, seconds, lambda end: _kill_until(end, run, result.absences)))
                say(
                    f"turn {turn + 1} of {repeats}: undisturbed {result.undisturbed[-1]:.1f}, while killing "
                    f"{result.killing[-1]:.1f} block-steps/s of the others; {len(result.absences)} kills so far"
                )
        finally:
            run.end()
    return result


def _rate(run: LiveRun, seconds: float, meanwhile: Callable[[float], None]) -> float:
    begun = time.time()
    meanwhile(begun + seconds)
    time.sleep(max(0.0, begun + seconds - time.time()))
    ended = time.time()
    run.wait_for("later records", lambda: run.records("round")[-1]["time"] > ended)
    rounds = [r for r in run.records("round") if r["stage"] in OTHERS and begun < r["time"] <= ended]
    steps: int = sum(record["steps"] for record in rounds)
    return steps / (ended - begun)


def _kill_until(end: float, run: LiveRun, absences: list[Absence]) -> None:
    while time.time() < end:
        pid, killed = run.pid(VICTIM), time.time()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        run.wait_for("the killed worker to train again", lambda at=killed: bool(_since(run, "recovery", at)))  # type: ignore[misc]
        lost, ready, trained = (_since(run, kind, killed)[0]["time"] for kind in ("lost", "worker", "recovery"))
        absences.append(Absence(lost - killed, ready - lost, trained - ready))
        time.sleep(SETTLE_SECONDS)


def _since(run: LiveRun, kind: str, begun: float) -> list[Record]:
    return [record for record in run.records(kind) if record["time"] > begun and record["worker"] == VICTIM]
