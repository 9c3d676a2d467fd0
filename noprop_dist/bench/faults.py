"""A long random campaign of faults: what was injected, what recovered, how fast, and whether a single bit differs."""

import random
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from noprop_dist import api
from noprop_dist.bench.fault_kinds import BLOCKS, FULL_DISK, KINDS, NODES, Kind, may_mount, trigger, victim_block
from noprop_dist.bench.harness import Say
from noprop_dist.bench.live_run import LiveRun
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.loopback import loopback_cluster
from noprop_dist.records import RoundDone
from noprop_dist.stages import CLASSIFIER, Stage, block
from noprop_dist.storage.run_directory import RunDirectory

BETWEEN_SECONDS = 1.0
DISK_BYTES = 128 * 2**20
STAGES = (*(block(t) for t in range(1, BLOCKS + 1)), CLASSIFIER)
LAST_SHARE = 0.8
"""No fault is injected after this share of the steps: there has to be something left to recover for."""


@dataclass(frozen=True)
class Fault:
    """One fault: its kind and a number that picks the victim."""

    kind: Kind
    pick: int


@dataclass(frozen=True)
class Outcome:
    """What became of a fault.

    Attributes:
        fault: that was injected.
        seconds: until what it hit worked again.
        lost_steps: of the whole run: steps that were not done, or counted twice.
        equal: whether every weight of the run has the bits of the undisturbed one.
    """

    fault: Fault
    seconds: float
    lost_steps: int = 0
    equal: bool = False


@dataclass(frozen=True)
class FaultRow:
    """What became of the faults of one kind; `recovered` are those whose runs lost no bit and no step."""

    fault: str
    injected: int
    recovered: int
    median_seconds: float | None
    most_seconds: float | None
    lost_steps: int
    equal_fingerprints: bool


def plan_faults(count: int, seed: int, kinds: Sequence[Kind] = KINDS) -> list[Fault]:
    """A seeded order of faults in which every kind has its turn as often as any other."""
    generator = random.Random(seed)
    planned: list[Kind] = []
    while len(planned) < count:
        planned += generator.sample(kinds, len(kinds))
    return [Fault(kind, generator.randrange(1000)) for kind in planned[:count]]


def bench_faults(count: int, seed: int, steps: int, folder: Path, say: Say) -> list[FaultRow]:
    """Run until all faults are injected, run after run; a row for each kind.

    Args:
        count: of faults.
        seed: of what is broken, and in which order.
        steps: of every block in each run.
        folder: for the runs.
        say: told what happens.
    """
    kinds = KINDS if may_mount() else tuple(kind for kind in KINDS if kind.name != FULL_DISK)
    if kinds != KINDS:
        say(f"left out: {FULL_DISK} (it takes a small file system, which this user may not mount)")
    expected = sequential_fingerprints(_settings(steps), folder / "undisturbed")
    say("the undisturbed run is done (sequential engine)")
    waiting, outcomes, number = plan_faults(count, seed, kinds), list[Outcome](), 0
    with loopback_cluster(NODES) as cluster:
        while waiting:
            number += 1
            run_folder = folder / f"run-{number:03d}"
            with _disk(run_folder, small=kinds == KINDS):
                outcomes += _one_run(
                    LiveRun(run_folder, _settings(steps, run_folder), cluster), steps, waiting, expected, say
                )
            say(f"run {number} ended; {len(outcomes)} of {count} faults")
    return [_row(kind, [each for each in outcomes if each.fault.kind is kind]) for kind in kinds]


def fingerprints(directory: RunDirectory) -> dict[Stage, str]:
    """SHA-256 of every stage's final weights."""
    return {entry.stage: entry.sha256 for entry in directory.checkpoints.manifest().stages}


def sequential_fingerprints(settings: Sequence[str], folder: Path) -> dict[Stage, str]:
    """The fingerprints that the sequential engine gives for digits with these settings.

    Args:
        settings: as for `train`.
        folder: of the run, not yet there.
    """
    config = load_config("digits", None, [*settings, "engine.kind=sequential"])
    api.train(config, folder, watcher=api.Watcher())
    return fingerprints(RunDirectory(str(folder)))


def _settings(steps: int, run_folder: Path | None = None) -> list[str]:
    """Of a run whose blocks can be poisoned; without a folder, of the undisturbed one."""
    settings = [f"blocks.count={BLOCKS}", "checkpoint.every_steps=100", f"training.max_steps={steps}"]
    if run_folder is None:
        return [*settings, "evaluation.samples=0"]
    settings += [
        "evaluation.samples=16",
        "engine.hang_seconds=4",
        "engine.coordinator_timeout_seconds=8",
        "engine.max_failures=-1",
        "metrics.port=null",
    ]
    network = "{{kind: custom, path: 'noprop_dist.bench.networks:PoisonedNetwork', arguments: {{trigger: '{}'}}}}"
    return settings + [
        f"blocks.networks.{t}={network.format(trigger(run_folder, block(t)))}" for t in range(1, BLOCKS + 1)
    ]


@contextmanager
def _disk(folder: Path, small: bool) -> Iterator[None]:
    """A `with` in which the run's folder is a file system small enough to be filled."""
    if not small:
        yield
        return
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _one_run(run: LiveRun, steps: int, waiting: list[Fault], expected: dict[Stage, str], say: Say) -> list[Outcome]:
    """One run, with as many of the waiting faults as fit into it; they are taken off the list."""
    outcomes: list[Outcome] = []
    documented = True
    try:
        while (fault := _next(run, steps, waiting, early=not outcomes)) is not None:
            waiting.remove(fault)
            outcomes.append(Outcome(fault, inject(run, fault)))
            say(f"{fault.kind.name}: {outcomes[-1].seconds:.1f} s")
            if fault.kind.last:
                documented = _ends_without(run, victim_block(fault.pick), steps, expected)
                run.resume()
                break
            time.sleep(BETWEEN_SECONDS)
        run.finish()
    finally:
        run.end()
    equal, wrong = documented and fingerprints(run.directory) == expected, _miscounted(run.records(RoundDone), steps)
    for stage, extra in wrong.items():
        say(f"{stage.name}: {extra:+d} steps are written down too often (+) or not at all (−)")
    lost = sum(map(abs, wrong.values()))
    return [Outcome(each.fault, each.seconds, lost, equal) for each in outcomes]


def inject(run: LiveRun, fault: Fault) -> float:
    """Break one thing and wait until what it hit works again; returns the seconds that this took."""
    begun = fault.kind.inject(run, fault.pick)
    return run.wait_for(f"recovery from: {fault.kind.name}", lambda: fault.kind.recovered(run, begun)) - begun


def _next(run: LiveRun, steps: int, waiting: Sequence[Fault], early: bool) -> Fault | None:
    """The fault to inject now; None once this run can take no more."""
    first_early = next((fault for fault in waiting if fault.kind.early), None)
    if early and first_early is not None:
        return first_early
    fault = next((fault for fault in waiting if not fault.kind.early), None)
    if fault is not None:
        run.wait_for("a checkpoint", lambda: not run.running or len(run.directory.checkpoints.steps()) > 0)
    reached = max((each.step for each in run.records(RoundDone) if each.stage.is_block), default=0)
    return fault if run.running and reached < LAST_SHARE * steps else None


def _ends_without(run: LiveRun, failed: Stage, steps: int, expected: dict[Stage, str]) -> bool:
    """Return True if a run ended as documented without one block: it is named, and all others have their bits."""
    named = run.ended() == 1 and f"not trained to the end: {failed.name} (NonFiniteError" in run.log()
    others = {stage: sha256 for stage, sha256 in expected.items() if stage != failed}
    entry = run.directory.checkpoints.entry
    return named and {stage: entry(steps, stage.file(BLOCKS)).sha256 for stage in others} == others


def _miscounted(rounds: Sequence[RoundDone], steps: int) -> dict[Stage, int]:
    """Stages whose rounds, as written down, are not all the steps exactly once: steps too many (+) or too few (−)."""
    done = Counter[Stage](dict.fromkeys(STAGES, 0))
    for each in rounds:
        done[each.stage] += each.steps
    return {stage: each - steps for stage, each in done.items() if each != steps}


def _row(kind: Kind, outcomes: Sequence[Outcome]) -> FaultRow:
    seconds = [each.seconds for each in outcomes]
    return FaultRow(
        fault=kind.name,
        injected=len(outcomes),
        recovered=sum(each.equal and each.lost_steps == 0 for each in outcomes),
        median_seconds=statistics.median(seconds) if seconds else None,
        most_seconds=max(seconds, default=None),
        lost_steps=sum(each.lost_steps for each in outcomes),
        equal_fingerprints=all(each.equal for each in outcomes),
    )
