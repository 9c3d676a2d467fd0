"""Writes in the run directory while the loop goes on: one task at a time, in a thread."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

from noprop_dist.engines.core.commands import FlushLog, Prune, StorageTask, WriteSnapshot
from noprop_dist.engines.core.events import Event, StorageDone, StorageFailed
from noprop_dist.storage.checkpoint_writer import CheckpointWriter
from noprop_dist.training.run_log import RunLog


class StorageThread:
    """The only writer of a run's checkpoints.

    Args:
        checkpoints: of the run.
        log: written before every snapshot, so that no snapshot is there without the records of its steps.
    """

    def __init__(self, checkpoints: CheckpointWriter, log: RunLog) -> None:
        self._checkpoints = checkpoints
        self._log = log
        self._thread = ThreadPoolExecutor(1, "storage")
        self._task: Future[StorageDone] | None = None

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
        began, complete = time.perf_counter(), False
        match task:
            case WriteSnapshot(snapshot):
                complete = self._checkpoints.add(snapshot)
            case Prune(up_to):
                self._checkpoints.prune(up_to)
            case FlushLog():
                pass
        return StorageDone(time.perf_counter() - began, complete, self._checkpoints.news())

    def close(self, timeout_seconds: float) -> None:
        """Give the task under way up to `timeout_seconds`, and write what is left of the log if that is possible."""
        self._thread.submit(self._flush_quietly).exception(timeout_seconds)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _flush_quietly(self) -> None:
        try:
            self._log.flush()
        except OSError:
            return  # the core was told of it before
