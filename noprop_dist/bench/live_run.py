"""A run of the command line, watched from outside through what it writes down."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from noprop_dist.engines.ray.loopback import ClusterNodes
from noprop_dist.errors import TrainingError
from noprop_dist.records import RoundDone, WorkerLost, WorkerReady
from noprop_dist.reporting.summary import of_kind
from noprop_dist.storage.run_directory import RunDirectory

Kind = TypeVar("Kind")
Found = TypeVar("Found")
POLL_SECONDS = 0.1
WAIT_SECONDS = 120.0


class LiveRun:
    """A run of the command line in processes of its own, on a cluster whose nodes can be killed.

    Args:
        folder: of the run, not yet there.
        settings: as for `train`.
        cluster: that it runs on.
    """

    def __init__(self, folder: Path, settings: Sequence[str], cluster: ClusterNodes) -> None:
        self.folder = folder
        self.cluster = cluster
        self.directory = RunDirectory(str(folder))
        options = [part for setting in settings for part in ("--set", setting)]
        self._driver = self._start("train", "--run-dir", str(folder), *options)

    @property
    def running(self) -> bool:
        """Return True if the driver is still there."""
        return self._driver.poll() is None

    @property
    def driver_pid(self) -> int:
        """Of the present driver."""
        return self._driver.pid

    def resume(self) -> None:
        """Wait until the driver is dead, and start another one."""
        self._driver.wait(timeout=WAIT_SECONDS)
        self._driver = self._start("resume", str(self.folder))

    def ended(self) -> int:
        """Wait for the run's own end; its exit code."""
        return self._driver.wait(timeout=10 * WAIT_SECONDS)

    def finish(self) -> None:
        """Wait for the run's own end.

        Raises:
            TrainingError: it failed.
        """
        code = self.ended()
        if code != 0:
            raise TrainingError(f"the run ended with exit code {code}:\n{self.log()}")

    def log(self) -> str:
        """What its drivers told people so far."""
        return self.folder.with_suffix(".log").read_text()

    def end(self) -> None:
        """Kill the driver, if it is still there."""
        if self.running:
            self._driver.kill()
            self._driver.wait(timeout=WAIT_SECONDS)

    def records(self, kind: type[Kind]) -> list[Kind]:
        """The records of one class so far."""
        return of_kind(self.directory.metrics(), kind)

    def pid(self, worker: str) -> int | None:
        """Process of a worker's latest incarnation; None before the first."""
        pids = [each.pid for each in self.records(WorkerReady) if each.worker == worker]
        return pids[-1] if pids else None

    def nodes_of_workers(self) -> dict[str, str]:
        """The node of each worker that is there, by the worker's name."""
        nodes: dict[str, str] = {}
        for record in self.directory.metrics():
            if isinstance(record, WorkerReady):
                nodes[record.worker] = record.node_id
            elif isinstance(record, WorkerLost):
                nodes.pop(record.worker, None)
        return nodes

    def wait_for(self, what: str, found: Callable[[], Found | None]) -> Found:
        """Wait until `found` returns something true.

        Returns:
            What it returned.

        Raises:
            TrainingError: it does not within two minutes, or before the driver ends.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            ended = not self.running  # asked first: what it has done before its end counts
            if what_is_there := found():
                return what_is_there
            if ended or time.monotonic() > deadline:
                why = "the driver has ended" if ended else f"{WAIT_SECONDS:.0f} s are over"
                raise TrainingError(f"waited in vain for {what}, {why}; what is known:\n{self._latest()}")
            time.sleep(POLL_SECONDS)

    def _latest(self) -> str:
        """The ends of its log and of its records, and each stage's slowest steps: the folder may be gone soon."""
        records = self.directory.metrics()
        others = [str(record) for record in records if not isinstance(record, RoundDone)]
        slowest: dict[str, float] = {}
        for each in of_kind(records, RoundDone):
            slowest[each.stage.name] = max(slowest.get(each.stage.name, 0.0), each.seconds / each.steps)
        return "\n".join([*self.log().splitlines()[-10:], *others[-10:], f"slowest steps (s): {slowest}"])

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "noprop_dist", *arguments, "--address", self.cluster.address]
        with self.folder.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)
