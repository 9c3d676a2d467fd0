"""Writes a run's checkpoints, log and other files while training goes on: one task after the other, in their order.

Of snapshots only the files are written ahead: in an object store, those of several stages at the same time.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from noprop_dist.engines.core.commands import EndAt, FlushLog, Prune, StorageTask, WriteFile, WriteSnapshot
from noprop_dist.engines.core.events import Event, StorageDone, StorageFailed
from noprop_dist.engines.core.snapshots import SNAPSHOTS_AT_ONCE
from noprop_dist.machine import HERE, Machine
from noprop_dist.records import Record
from noprop_dist.stages import Stage
from noprop_dist.storage.checkpoint_writer import CheckpointWriter
from noprop_dist.storage.manifest import SnapshotEntry
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.run_log import RunLog


class StorageThread:
    """The only writer of a run's checkpoints and other files.

    Args:
        checkpoints: of the run.
        log: written before every snapshot, so that no snapshot is there without the records of its steps.
        directory: of the run.
        machine: its thread and its clock.
        task_done: called in its thread when a task is done or has failed; None where nobody waits for that.
    """

    def __init__(
        self,
        checkpoints: CheckpointWriter,
        log: RunLog,
        directory: RunDirectory,
        machine: Machine = HERE,
        task_done: Callable[[], None] | None = None,
    ) -> None:
        self._directory = directory
        self._checkpoints = checkpoints
        self._log = log
        self._machine = machine
        self._task_done = task_done
        self._thread = machine.thread("storage")
        self._log_writer, self._savers = self._thread, [self._thread]
        if directory.local_root is None:
            self._log_writer = machine.thread("log")
            self._savers = [machine.thread(f"snapshot {number}") for number in range(SNAPSHOTS_AT_ONCE)]
        self._begun = 0
        self._under_way = deque[Future[StorageDone]]()
        self._broke_off = False
        """Whether the task under way, or one before it, was not done to its end: then none after it is begun."""

    def log(self, record: Record) -> None:
        """Write a record down with the next task."""
        self._log.add(record)

    def give_up(self, stage: Stage) -> None:
        """Keep no further checkpoint waiting for a stage."""
        self._checkpoints.give_up(stage)

    def begin(self, task: StorageTask) -> None:
        """Begin a task; none but snapshots may be begun while others are under way."""
        before: Future[Any] = self._flushed()
        if isinstance(task, WriteSnapshot):
            saver = self._savers[self._begun % len(self._savers)]
            self._begun += 1
            before = saver.submit(self._save, task.snapshot, before)
        under_way = self._thread.submit(self._do, task, before)
        self._under_way.append(under_way)
        if (task_done := self._task_done) is not None:
            under_way.add_done_callback(lambda _: task_done())

    def events(self) -> list[Event]:
        """What came of the tasks under way, in their order.

        After one that failed, nothing is under way any more: those after it were not done, and may be begun again.
        """
        events: list[Event] = []
        while self._under_way and self._under_way[0].done():
            error = self._under_way[0].exception()
            if isinstance(error, OSError):
                if all(task.done() for task in self._under_way):
                    self._under_way.clear()
                    self._broke_off = False
                    events.append(StorageFailed(str(error)))
                return events
            events.append(self._under_way.popleft().result())
        return events

    def _flushed(self) -> Future[None]:
        """What is done once all records of up to now are written."""
        return self._log_writer.submit(self._log.flush)

    def _save(self, snapshot: Snapshot, flushed: Future[None]) -> tuple[SnapshotEntry, float]:
        """Write a snapshot's files, its records before it; return its entry, and the seconds that it took."""
        flushed.result()
        began = self._machine.monotonic()
        return self._checkpoints.save(snapshot), self._machine.monotonic() - began

    def _do(self, task: StorageTask, before: Future[Any]) -> StorageDone:
        broke_off, self._broke_off = self._broke_off, True
        saved, seconds = before.result(), 0.0
        if broke_off:
            raise OSError("a task before it was not done")
        began, complete = self._machine.monotonic(), False
        match task:
            case WriteSnapshot(snapshot):
                entry, seconds = saved
                complete = self._checkpoints.add(snapshot, entry, alone=len(self._savers) == 1)
            case Prune(up_to, best):
                self._checkpoints.prune(up_to, best)
            case EndAt(step, best):
                self._checkpoints.end_at(step, best)
            case WriteFile(name, content):
                self._directory.write_file(name, content)
            case FlushLog():
                pass
        self._broke_off = False
        return StorageDone(seconds + self._machine.monotonic() - began, complete, self._checkpoints.news())

    def close(self, timeout_seconds: float) -> None:
        """Give the task under way up to `timeout_seconds`, and write what is left of the log if that is possible."""
        with suppress(TimeoutError):
            self._log_writer.submit(self._flush_quietly).exception(timeout_seconds)
        for thread in {self._thread, self._log_writer, *self._savers}:
            thread.shutdown(wait=False, cancel_futures=True)

    def _flush_quietly(self) -> None:
        try:
            self._log.flush()
        except OSError:
            return  # the core was told of it before
