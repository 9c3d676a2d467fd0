"""A long random campaign of faults: what was injected, what recovered, how fast, and whether a single bit differs."""

import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noprop_dist.bench.injection import LiveRun, flip_bit, kill_driver, kill_node, kill_worker, truncate_manifest
from noprop_dist.configuration.layers import load_config
from noprop_dist.distributed.loopback import LoopbackCluster, loopback_cluster
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.sequential import train_sequentially
from noprop_dist.training.setup import prepare

NODES = 2
BLOCKS = 4
BETWEEN_SECONDS = 1.0
SETTINGS = [
    f"blocks.count={BLOCKS}",
    "checkpoint.every_steps=100",
    "evaluation.samples=16",
    "engine.hang_seconds=4",
    "engine.max_failures=-1",
    "metrics.port=null",
]
KINDS = (
    *("block worker killed", "classifier worker killed", "evaluator killed", "coordinator killed", "driver killed"),
    *("node killed", "block worker stopped (SIGSTOP)", "bit flipped in a snapshot", "manifest truncated"),
)


@dataclass(frozen=True)
class Fault:
    """One fault: its kind and a number that picks the victim."""

    kind: str
    pick: int


@dataclass(frozen=True)
class Outcome:
    """What became of a fault: seconds until training went on."""

    fault: Fault
    seconds: float
    lost_steps: int = 0
    equal: bool = False


def plan_faults(count: int, seed: int) -> list[Fault]:
    """A seeded order of faults in which every kind has its turn as often as any other."""
    generator = random.Random(seed)
    kinds: list[str] = []
    while len(kinds) < count:
        kinds += generator.sample(KINDS, len(KINDS))
    return [Fault(kind, generator.randrange(1000)) for kind in kinds[:count]]


def bench_faults(count: int, seed: int, steps: int, folder: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run until all faults are injected, run after run; a row for each kind.

    Args:
        count: of faults.
        seed: of what is broken, and in which order.
        steps: of every block in each run.
        folder: for the runs.
        say: told what happens.
    """
    settings = [*SETTINGS, f"training.max_steps={steps}"]
    expected = _undisturbed(settings, folder / "undisturbed")
    say("the undisturbed run is done (sequential engine)")
    waiting, outcomes = plan_faults(count, seed), list[Outcome]()
    with loopback_cluster(NODES) as cluster:
        number = 0
        while waiting:
            number += 1
            outcomes += _one_run(folder / f"run-{number:03d}", settings, cluster, waiting, expected, say)
            say(f"run {number} ended; {len(outcomes)} of {count} faults")
    return [_row(kind, [each for each in outcomes if each.fault.kind == kind]) for kind in KINDS]


def _undisturbed(settings: list[str], folder: Path) -> dict[str, str]:
    setup, data = prepare(load_config("digits", None, [*settings, "evaluation.samples=0", "engine.kind=sequential"]))
    directory = RunDirectory(str(folder))
    directory.create(setup.config, setup.facts)
    train_sequentially(setup, data, directory, lambda _: None)
    return fingerprints(directory)


def fingerprints(directory: RunDirectory) -> dict[str, str]:
    """SHA-256 of every stage's final weights, by file name."""
    return {entry["name"]: entry["sha256"] for entry in directory.checkpoints.manifest()["stages"]}


def _one_run(
    folder: Path,
    settings: list[str],
    cluster: LoopbackCluster,
    waiting: list[Fault],
    expected: dict[str, str],
    say: Callable[[str], None],
) -> list[Outcome]:
    """One run with as many of the waiting faults as it lives to see; they are taken off the list."""
    run, outcomes = LiveRun(folder, settings, cluster), list[Outcome]()
    total = int(settings[-1].partition("=")[2])
    try:
        early = next((fault for fault in waiting if fault.kind.startswith("classifier")), None)
        if early is not None:  # the classifier's few steps are soon done
            run.wait_for("the classifier worker", lambda: run.pid("classifier worker") is not None)
            waiting.remove(early)
            outcomes.append(Outcome(early, inject(run, early)))
        while waiting and run.running and _least_step(run) < 0.8 * total:
            fault = next((each for each in waiting if not each.kind.startswith("classifier")), None)
            if fault is None:
                break
            if not run.directory.checkpoints.steps():
                time.sleep(BETWEEN_SECONDS)
                continue
            waiting.remove(fault)
            outcomes.append(Outcome(fault, inject(run, fault)))
            say(f"{fault.kind}: training again after {outcomes[-1].seconds:.1f} s")
            time.sleep(BETWEEN_SECONDS)
        run.finish()
    finally:
        run.end()
    done = Counter[str]()
    for record in run.records("round"):
        done[record["stage"]] += record["steps"]
    lost = sum(abs(total - steps) for steps in done.values()) + total * (BLOCKS + 1 - len(done))
    equal = fingerprints(run.directory) == expected
    return [Outcome(each.fault, each.seconds, lost, equal) for each in outcomes]


def inject(run: LiveRun, fault: Fault) -> float:
    """Break one thing, and wait until training goes on.

    Returns:
        Seconds from the fault to the end of the first round of whatever it hit.
    """
    worker = f"block worker {1 + fault.pick % NODES}"
    begun = time.time()
    match fault.kind:
        case "block worker killed":
            kill_worker(run, worker)
        case "classifier worker killed":
            kill_worker(run, "classifier worker")
        case "evaluator killed":
            kill_worker(run, "evaluator")
        case "coordinator killed":
            kill_worker(run, "coordinator")
        case "driver killed":
            kill_driver(run)
        case "node killed":
            kill_node(run, fault.pick % NODES)
        case "block worker stopped (SIGSTOP)":
            kill_worker(run, worker, signal.SIGSTOP)
        case "bit flipped in a snapshot":
            flip_bit(run, f"block-{1 + fault.pick % BLOCKS:02d}")
        case "manifest truncated":
            truncate_manifest(run)
    run.wait_for(f"recovery from: {fault.kind}", lambda: _again(run, fault, begun) is not None)
    again = _again(run, fault, begun)
    assert again is not None
    return again - begun


def _again(run: LiveRun, fault: Fault, begun: float) -> float | None:
    """When what was hit worked again; None if it has not yet."""
    workers = [record for record in run.records("worker") if record["time"] > begun]
    if fault.kind == "evaluator killed":
        return next((r["time"] for r in workers if r["worker"] == "evaluator"), None)
    recoveries = [record["time"] for record in run.records("recovery") if record["time"] > begun]
    coordinators = [record["time"] for record in workers if record["worker"] == "coordinator"]
    if coordinators:  # the whole run went on from its directory
        recoveries += [r["time"] for r in run.records("round") if r["time"] > coordinators[0]]
    if not run.running:
        return time.time()  # the run came to its end meanwhile
    return min(recoveries, default=None)


def _least_step(run: LiveRun) -> int:
    steps = {record["stage"]: record["step"] for record in run.records("round")}
    return min(steps.values(), default=0)


def _row(kind: str, outcomes: list[Outcome]) -> dict[str, Any]:
    seconds = [each.seconds for each in outcomes]
    return {
        "fault": kind,
        "injected": len(outcomes),
        "recovered": sum(each.equal for each in outcomes),
        "median_seconds": statistics.median(seconds) if seconds else None,
        "most_seconds": max(seconds, default=None),
        "lost_steps": sum(each.lost_steps for each in outcomes),
        "equal_fingerprints": all(each.equal for each in outcomes),
    }
