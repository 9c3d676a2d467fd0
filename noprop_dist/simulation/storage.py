"""Where a simulated run is stored: a disk or an object store in memory, under shipped code, with spells of trouble."""

import errno
import random
from collections.abc import Callable, Mapping
from typing import Literal

from noprop_dist.machine import Machine
from noprop_dist.simulation.bucket import SimulatedBucket
from noprop_dist.simulation.disk import SimulatedDisk, Torn
from noprop_dist.simulation.world import Process, ProcessDied, World
from noprop_dist.storage.local_files import LocalFiles
from noprop_dist.storage.lock import LOCK
from noprop_dist.storage.object_files import ObjectFiles
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import Store

ROOT = "/run"
WAITS = {"pread": 0.002, "replace": 0.003, "write": 0.001, "listdir": 0.001}
"""Seconds that operations of a disk take; others take none."""
REQUEST_SECONDS = 0.03
"""Of an object store."""
TIMEOUT_SECONDS = 9.0
"""Three attempts of 3 s each."""


class SimulatedStore:
    """The store of one run.

    Args:
        world: that it is in.
        kind: a disk or an object store.

    Attributes:
        slowness: factor of all latencies.
        fails: errno of every writing operation, as long as it is not None; 0 is an object store without an answer.
        hangs: whether no operation ends.
        away: whether the disk is not there.
        full_from_point: the point of a process at which the disk becomes full.
        told_of_write: called with each process that changes an object store, and the file or step. Not for locks.
    """

    def __init__(self, world: World, kind: Literal["disk", "bucket"]) -> None:
        self.world, self.kind = world, kind
        self.slowness = 1.0
        self.fails: int | None = None
        self.hangs = False
        self.full_from_point: int | None = None
        self.away = False
        self.told_of_write: Callable[[Process, str], None] = lambda _process, _what: None
        self.disk = SimulatedDisk(lambda: world.now)
        self.bucket = SimulatedBucket(lambda: world.now)

    def of(self, process: Process, machine: Machine) -> Store:
        """The store as one process has it: it waits, meets trouble, and dies in the middle."""
        if self.kind == "disk":
            system = self.disk.for_process(lambda operation, _: self._on_disk(process, operation))
            process.at_death.append(system.close_all)
            return Store(ROOT, LocalFiles(ROOT, system), machine)
        files = self.bucket.for_process(lambda operation, path: self._on_bucket(process, operation, path))
        return Store("sim://bucket/run", ObjectFiles(files, "bucket/run"), machine)

    def undisturbed(self) -> Store:
        """The store as nobody of the run sees it: without waits and without trouble."""
        if self.kind == "disk":
            return Store(ROOT, LocalFiles(ROOT, self.disk.for_process()))
        return Store("sim://bucket/run", ObjectFiles(self.bucket.for_process(fresh=True), "bucket/run"))

    @property
    def holds_run(self) -> bool:
        return RunDirectory(self.undisturbed()).holds_run

    def _on_disk(self, process: Process, operation: str) -> None:
        try:
            process.point()
        except ProcessDied:
            if operation == "write" and self.world.luck.random() < 0.5:
                raise Torn(self.world.luck.randrange(200), ProcessDied()) from None
            raise
        self._hang()
        if self.full_from_point == process.points:
            self.fill()
        if self.fails is not None and operation in ("write", "pwrite", "replace", "mkdir", "ftruncate"):
            raise OSError(self.fails, "made to fail")
        seconds = WAITS.get(operation)
        if seconds is not None and (self.slowness > 1.0 or operation == "replace"):
            self.world.sleep(seconds * self.slowness)

    def _on_bucket(self, process: Process, operation: str, path: str) -> None:
        process.point()
        if operation in ("put", "delete") and not path.endswith(LOCK):
            self.told_of_write(process, "/".join(path.split("/")[2:4]))
        self._hang()
        if self.fails is not None:
            self.world.sleep(TIMEOUT_SECONDS)
            raise OSError("When talking to the object store: the endpoint did not answer")
        self.world.sleep(REQUEST_SECONDS * self.slowness * self.world.luck.uniform(0.5, 2.0))

    def _hang(self) -> None:
        while self.hangs:
            self.world.sleep(1.0)

    # What happens to it

    def take_away(self, seconds: float) -> None:
        """Let the disk be not there for so long."""
        self.away = True
        self.disk.take_away(ROOT[1:])
        self.world.at(seconds, self.bring_back)

    def bring_back(self) -> None:
        """Let the disk be there again, if it is not."""
        if not self.away:
            return
        self.disk.bring_back(ROOT[1:])
        self.away = False

    def be_kind(self) -> None:
        """End all trouble."""
        self.bring_back()
        self.empty()
        self.bucket.stale_seconds = 0.0

    def put(self, contents: Mapping[str, bytes]) -> None:
        """Put files there from outside, however full the disk is, and even if it is not there."""
        self.bring_back()
        capacity, self.disk.capacity = self.disk.capacity, None
        for name, content in contents.items():
            self.undisturbed().write(name, content)
        self.disk.capacity = capacity

    def fill(self, free: int = 0) -> None:
        """Leave so many bytes free."""
        self.disk.capacity = self.disk.used + free

    def empty(self) -> None:
        self.disk.capacity = None


FULL, BROKEN, READ_ONLY = errno.ENOSPC, errno.EIO, errno.EROFS


def flip(content: bytes, luck: random.Random) -> bytes:
    """The content with one bit flipped."""
    changed = bytearray(content)
    if changed:
        changed[luck.randrange(len(changed))] ^= 1 << luck.randrange(8)
    return bytes(changed)
