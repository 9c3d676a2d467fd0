"""How fast the other blocks train while one worker is killed again and again, and how long it is away each time.

One run on two nodes of one core each, a worker with two blocks on either. Phases in turns: undisturbed, and with
worker 2 killed whenever it trains again. The rate is that of worker 1's blocks.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from noprop_dist.bench.harness import Say, SideRow, Spread, alternate
from noprop_dist.bench.live_run import LiveRun
from noprop_dist.engines.ray.loopback import loopback_cluster
from noprop_dist.records import RoundDone, StageRecovered, WorkerLost, WorkerReady
from noprop_dist.stages import block

SETTINGS = [
    *("blocks.count=4", "engine.blocks_per_worker=2", "engine.max_failures=-1", "training.max_steps=1000000"),
    *("checkpoint.every_steps=1000000", "evaluation.samples=0", "metrics.port=null"),
]
OTHERS = (block(1), block(2))
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


@dataclass(frozen=True)
class IsolationResult:
    """Block-steps per second of the others in each phase, and each absence of the killed worker."""

    undisturbed: Spread
    killing: Spread
    absences: tuple[Absence, ...]

    @property
    def ratio(self) -> float:
        """Median while killing over median undisturbed."""
        return self.killing.median / self.undisturbed.median

    def rows(self) -> list[SideRow]:
        """Rates of the others, then the parts of the absences (seconds)."""
        parts = {
            "noticed": [each.noticed for each in self.absences],
            "started": [each.started for each in self.absences],
            "trained": [each.trained for each in self.absences],
            "total": [each.total for each in self.absences],
        }
        return [
            SideRow("others undisturbed (block-steps/s)", self.undisturbed),
            SideRow("others while killing", self.killing),
            *(SideRow(f"killed worker: {part} (s)", Spread(seconds)) for part, seconds in parts.items()),
        ]


def bench_isolation(seconds: float, repeats: int, folder: Path, say: Say) -> IsolationResult:
    """Measure both kinds of phase in turns within one run.

    Args:
        seconds: of one phase.
        repeats: phases of each kind.
        folder: for the run.
        say: told what is being measured.
    """
    absences: list[Absence] = []
    with loopback_cluster(2) as cluster:
        run = LiveRun(folder / "run", SETTINGS, cluster)

        def undisturbed(_: int) -> float:
            time.sleep(SETTLE_SECONDS)
            return _rate(run, seconds, lambda _: None)

        def killing(_: int) -> float:
            return _rate(run, seconds, lambda end: _kill_until(end, run, absences))

        try:
            run.wait_for("all blocks to train", lambda: len({each.stage for each in run.records(RoundDone)}) == 5)
            sides = {"undisturbed": undisturbed, "while killing": killing}
            rates = alternate(sides, repeats, say, lambda rate: f"{rate:.1f} block-steps/s of the others")
        finally:
            run.end()
    return IsolationResult(Spread(rates["undisturbed"]), Spread(rates["while killing"]), tuple(absences))


def _rate(run: LiveRun, seconds: float, meanwhile: Callable[[float], None]) -> float:
    begun = time.time()
    meanwhile(begun + seconds)
    time.sleep(max(0.0, begun + seconds - time.time()))
    ended = time.time()
    run.wait_for("later records", lambda: run.records(RoundDone)[-1].time > ended)
    rounds = [each for each in run.records(RoundDone) if each.stage in OTHERS and begun < each.time <= ended]
    return sum(each.steps for each in rounds) / (ended - begun)


def _kill_until(end: float, run: LiveRun, absences: list[Absence]) -> None:
    while time.time() < end:
        pid, killed = run.pid(VICTIM), time.time()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        absences.append(_absence(run, killed))
        time.sleep(SETTLE_SECONDS)


def _absence(run: LiveRun, killed: float) -> Absence:
    """Wait until the worker that was killed at `killed` (Unix seconds) trains again."""

    def times(kind: type[WorkerLost | WorkerReady | StageRecovered]) -> list[float]:
        return [each.time for each in run.records(kind) if each.time > killed and each.worker == VICTIM]

    run.wait_for("the killed worker to train again", lambda: bool(times(StageRecovered)))
    lost, ready, trained = (times(kind)[0] for kind in (WorkerLost, WorkerReady, StageRecovered))
    return Absence(lost - killed, ready - lost, trained - ready)
