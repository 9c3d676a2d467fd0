"""The kinds of fault that a campaign injects into a run from outside: signals to processes, damage to files.

Each kind says how it breaks something, and when what it hit worked again. The run knows nothing of them.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from noprop_dist.bench.live_run import LiveRun
from noprop_dist.engines.ray.loopback import LoopbackCluster
from noprop_dist.records import News, RoundDone, StageFailed, StageRecovered, WorkerLost, WorkerReady
from noprop_dist.stages import Stage, block
from noprop_dist.storage.checkpoints import ENTRY
from noprop_dist.storage.snapshot import WEIGHTS

NODES = 2
BLOCKS = 4
NOTICE_SECONDS = 4
PAUSE_SECONDS = 1.5
FULL_SECONDS = 3.0
"""The disk stays full for so long after the run has said that it is."""


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: for people.
        inject: breaks something; the number picks the victim. Returns the time from which recovery counts.
        recovered: the time at which what was hit worked again, given when that began; None if it has not yet.
        early: the victim has little to do, so it is hit right at the start of a run.
        last: the run ends after it, and is resumed.
    """

    name: str
    inject: Callable[[LiveRun, int], float]
    recovered: Callable[[LiveRun, float], float | None]
    early: bool = False
    last: bool = False


def victim_block(pick: int) -> Stage:
    """The block that a number picks."""
    return block(1 + pick % BLOCKS)


def trigger(run_folder: Path, victim: Stage) -> Path:
    """The file that makes a block's next step not finite."""
    return run_folder.with_suffix(f".nan-{victim.index}")


def may_mount() -> bool:
    """Return True if this process may mount a small file system of its own, which is what a full disk takes."""
    if shutil.which("unshare") is None:
        return False
    try_it = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", tempfile.gettempdir()]
    return subprocess.run(try_it, capture_output=True, check=False).returncode == 0


def signal_worker(run: LiveRun, worker: str, number: signal.Signals = signal.SIGKILL) -> float:
    """Send a signal to a worker's process, once one is alive: the worker may have been lost just now.

    Returns:
        When it was sent, Unix seconds.
    """

    def hit() -> float | None:
        pid, now = run.pid(worker), time.time()
        if pid is None:
            return None
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return now
        return None

    return run.wait_for(f"a living {worker}", hit)


def _kill_named(worker: str, run: LiveRun, _: int) -> float:
    return signal_worker(run, worker)


def _kill_block_worker(number: signal.Signals, run: LiveRun, pick: int) -> float:
    return signal_worker(run, _worker_at_work(run, pick), number)


def _worker_at_work(run: LiveRun, pick: int) -> str:
    """Choose a worker that holds a block, once there is one: if nothing is lost, nothing has to recover."""
    workers = run.wait_for("a block worker at work", lambda: workers_at_work(run))
    return workers[pick % len(workers)]


def workers_at_work(run: LiveRun) -> list[str]:
    """The workers that a block's latest round came from, since they and the coordinator began.

    A worker that has just come may hold no block, and rounds of the process before it do not say that it does.
    """
    latest = {each.stage: each for each in run.records(RoundDone) if each.stage.is_block}
    began = {each.worker: each.time for each in run.records(WorkerReady)}
    lost = {each.worker: each.time for each in run.records(WorkerLost)}
    at_work = set[str]()
    for done in latest.values():
        worker = done.worker
        if worker is not None and done.time > max(began[worker], began["coordinator"], lost.get(worker, 0.0)):
            at_work.add(worker)
    return sorted(at_work)


def _stop_coordinator(run: LiveRun, _: int) -> float:
    return signal_worker(run, "coordinator", signal.SIGSTOP)


def _kill_driver(run: LiveRun, _: int) -> float:
    begun = time.time()
    os.kill(run.driver_pid, signal.SIGKILL)
    run.resume()
    return begun


def _kill_node(run: LiveRun, pick: int) -> float:
    """Kill the node of a worker at work."""

    def at_work() -> list[int]:
        workers, nodes = workers_at_work(run), run.nodes_of_workers()
        held = {nodes.get(worker) for worker in workers}
        return [number for number in range(NODES) if _nodes(run).node_id(number) in held]

    numbers = run.wait_for("a node with a worker at work", at_work)
    return _replace_node(run, numbers[pick % len(numbers)])


def _replace_node(run: LiveRun, number: int) -> float:
    begun = time.time()
    _nodes(run).kill_node(number)
    _nodes(run).return_node(number)
    return begun


def _nodes(run: LiveRun) -> LoopbackCluster:
    assert isinstance(run.cluster, LoopbackCluster)
    return run.cluster


def _flip_bit(suffix: str, run: LiveRun, pick: int) -> float:
    """Flip a bit in a file of a block's newest snapshot; then kill the coordinator, so that it is read."""
    name = victim_block(pick).file(BLOCKS)
    while True:
        step = run.directory.checkpoints.saved_steps()[name][-1]
        file = run.folder / f"checkpoints/step-{step:08d}/{name}{suffix}"
        with suppress(FileNotFoundError):  # it was deleted just now, for there are newer ones
            content = bytearray(file.read_bytes())
            content[pick % len(content) if suffix == ENTRY else len(content) // 2] ^= 1
            file.write_bytes(content)
            return signal_worker(run, "coordinator")


def _truncate_manifest(run: LiveRun, _: int) -> float:
    """Cut the newest manifest in half; then kill the coordinator, so that it is read."""
    while True:
        step = run.directory.checkpoints.steps()[-1]
        file = run.folder / f"checkpoints/step-{step:08d}/manifest.json"
        with suppress(FileNotFoundError):
            os.truncate(file, file.stat().st_size // 2)
            return signal_worker(run, "coordinator")


def _fill_disk(run: LiveRun, _: int) -> float:
    """Fill the run's file system to its last byte, until the run has noticed and a while longer."""
    said = run.log().count("cannot be written")
    ballast = run.folder / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**12))
    run.wait_for("the run to notice the full disk", lambda: run.log().count("cannot be written") > said)
    time.sleep(FULL_SECONDS)
    ballast.unlink()
    return time.time()


def _pause_block_worker(run: LiveRun, pick: int) -> float:
    """Stop a worker for less time than it takes to be missed, and let it go on."""
    worker = _worker_at_work(run, pick)
    signal_worker(run, worker, signal.SIGSTOP)
    time.sleep(PAUSE_SECONDS)
    return signal_worker(run, worker, signal.SIGCONT)


def _drain_node(run: LiveRun, pick: int) -> float:
    """Announce that a machine leaves; then it goes, and another one comes."""
    _nodes(run).drain_node(pick % NODES, NOTICE_SECONDS)
    time.sleep(NOTICE_SECONDS)
    return _replace_node(run, pick % NODES)


def _double_lines(run: LiveRun, _: int) -> float:
    """Append the last lines of metrics.jsonl once more; then kill the coordinator, so that they are read."""
    file = run.folder / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)[-3:]
    with file.open("ab") as opened:
        opened.write(b"".join(line for line in lines if line.endswith(b"\n")))
    return signal_worker(run, "coordinator")


def _poison(run: LiveRun, pick: int) -> float:
    begun = time.time()
    trigger(run.folder, victim_block(pick)).touch()
    return begun


def _trains_again(run: LiveRun, begun: float) -> float | None:
    """The first round of what was hit; after the loss of the coordinator, of any stage."""
    times = [each.time for each in run.records(StageRecovered)]
    coordinator = _is_back("coordinator", run, begun)
    if coordinator is not None:
        times += [each.time for each in run.records(RoundDone) if each.time > coordinator]
    return min((time for time in times if time > begun), default=None)


def _goes_on(run: LiveRun, begun: float) -> float | None:
    """The time by which every block has done another round, or was done before: those of what was hit as well."""
    steps = run.directory.config().training.max_steps
    rounds = [each for each in run.records(RoundDone) if each.stage.is_block]
    counted = [each for each in rounds if each.time > begun or each.step == steps]
    first = {each.stage: max(begun, each.time) for each in reversed(counted)}
    return max(first.values()) if len(first) == BLOCKS else None


def _is_back(worker: str, run: LiveRun, begun: float) -> float | None:
    return next((r.time for r in run.records(WorkerReady) if r.time > begun and r.worker == worker), None)


def _writes_again(run: LiveRun, begun: float) -> float | None:
    return next((r.time for r in run.records(News) if r.time > begun and "can be written again" in r.text), None)


def _is_stopped(run: LiveRun, begun: float) -> float | None:
    return next((r.time for r in run.records(StageFailed) if r.time > begun and "NonFiniteError" in r.cause), None)


FULL_DISK = "disk full"
KINDS = (
    Kind("block worker killed", partial(_kill_block_worker, signal.SIGKILL), _trains_again),
    Kind("classifier worker killed", partial(_kill_named, "classifier worker"), _trains_again, early=True),
    Kind("evaluator killed", partial(_kill_named, "evaluator"), partial(_is_back, "evaluator")),
    Kind("coordinator killed", partial(_kill_named, "coordinator"), _trains_again),
    Kind("driver killed", _kill_driver, _trains_again),
    Kind("node killed (raylet)", _kill_node, _trains_again),
    Kind("node drained, then killed", _drain_node, _goes_on),
    Kind("block worker stopped for a while", _pause_block_worker, _goes_on),
    Kind("coordinator stopped (SIGSTOP)", _stop_coordinator, _trains_again),
    Kind("block worker stopped (SIGSTOP)", partial(_kill_block_worker, signal.SIGSTOP), _trains_again),
    Kind("bit flipped in a snapshot", partial(_flip_bit, WEIGHTS), _trains_again),
    Kind("bit flipped in an entry", partial(_flip_bit, ENTRY), _trains_again),
    Kind("lines of metrics.jsonl doubled", _double_lines, _trains_again),
    Kind("manifest truncated", _truncate_manifest, _trains_again),
    Kind(FULL_DISK, _fill_disk, _writes_again),
    Kind("NaN in one block", _poison, _is_stopped, last=True),
)
