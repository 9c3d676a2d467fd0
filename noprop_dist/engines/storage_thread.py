"""Writes a run's checkpoints, log and other files in a thread, one task at a time, while training goes on."""

from concurrent.futures import Future
from contextlib import suppress

from noprop_dist.engines.core.commands import EndAt, FlushLog, Prune, StorageTask, WriteFile, WriteSnapshot
from noprop_dist.engines.core.events import Event, StorageDone, StorageFailed
from noprop_dist.machine import HERE, Machine
from noprop_dist.records import Record
from noprop_dist.stages import Stage
from noprop_dist.storage.checkpoint_writer import CheckpointWriter
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.run_log import RunLog


class StorageThread:
    """The only writer of a run's checkpoints and other files.

    Args:
        checkpoints: of the run.
        log: written before every snapshot, so that no snapshot is there without the records of its steps.
        directory: of the run.
        machine: its thread and its clock.
    """

    def __init__(
        self, checkpoints: CheckpointWriter, log: RunLog, directory: RunDirectory, machine: Machine = HERE
    ) -> None:
        self._directory = directory
        self._checkpoints = checkpoints
        self._log = log
        self._machine = machine
        self._thread = machine.thread("storage")
        self._task: Future[StorageDone] | None = None

    def log(self, record: Record) -> None:
        """Write a record down with the next task."""
        self._log.add(record)

    def give_up(self, stage: Stage) -> None:
        """Keep no further checkpoint waiting for a stage."""
        self._checkpoints.give_up(stage)

    def begin(self, task: StorageTask) -> None:
        """Begin a task; there must be none under way."""
        self._task = self._thread.submit(self._do, task)

    def events(self) -> list[Event]:
        """What came of the task under way: one event once it is over, before that none."""
        if self._task is None or not self._task.done():
            return []
        task, self._task = self._task, None
        try:
            return [task.result()]
        except OSError as error:
            return [StorageFailed(str(error))]

    def _do(self, task: StorageTask) -> StorageDone:
        self._log.flush()
        began, complete = self._machine.monotonic(), False
        match task:
            case WriteSnapshot(snapshot):
                complete = self._checkpoints.add(snapshot)
            case Prune(up_to, best):
                self._checkpoints.prune(up_to, best)
            case EndAt(step, best):
                self._checkpoints.end_at(step, best)
            case WriteFile(name, content):
                self._directory.write_file(name, content)
            case FlushLog():
                pass
        return StorageDone(self._machine.monotonic() - began, complete, self._checkpoints.news())

    def close(self, timeout_seconds: float) -> None:
        """Give the task under way up to `timeout_seconds`, and write what is left of the log if that is possible."""
        with suppress(TimeoutError):
            self._thread.submit(self._flush_quietly).exception(timeout_seconds)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _flush_quietly(self) -> None:
        try:
            self._log.flush()
        except OSError:
            return  # the core was told of it before
