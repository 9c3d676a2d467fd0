"""Carries out what the core asks for, and tells it what came of that. Decides nothing.

Training goes on while a thread writes in the run directory, one task at a time.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from noprop_dist.engines.core.commands import (
    AskCluster,
    CallActor,
    Command,
    End,
    EndAt,
    FlushLog,
    GiveUpStage,
    KillActor,
    Log,
    Prune,
    StartActor,
    StorageTask,
    UseStorage,
    WriteFile,
    WriteSnapshot,
)
from noprop_dist.engines.core.events import ClusterSeen, Event, StorageDone, StorageFailed
from noprop_dist.engines.ray.actors import RayActors
from noprop_dist.engines.ray.cluster import cluster_resources, draining_nodes
from noprop_dist.storage.checkpoint_writer import CheckpointWriter
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.run_log import RunLog


class CommandRunner:
    """Carries out the commands of one run.

    Args:
        actors: of the run, on Ray.
        checkpoints: of the run.
        log: of the run.
        directory: of the run.
    """

    def __init__(self, actors: RayActors, checkpoints: CheckpointWriter, log: RunLog, directory: RunDirectory) -> None:
        self._actors = actors
        self._checkpoints = checkpoints
        self._log = log
        self._storage = StorageThread(checkpoints, log, directory)
        self._cluster_is_asked = False

    def carry_out(self, command: Command) -> None:
        """Carry out one command; never waits for an answer."""
        match command:
            case StartActor():
                self._actors.start(command)
            case CallActor():
                self._actors.call(command)
            case KillActor(process):
                self._actors.kill(process)
            case UseStorage(task):
                self._storage.begin(task)
            case GiveUpStage(stage):
                self._checkpoints.give_up(stage)
            case Log(record):
                self._log.add(record)
            case AskCluster():
                self._cluster_is_asked = True
            case End():
                pass  # the coordinator's loop ends with it

    def events(self, timeout_seconds: float) -> list[Event]:
        """Wait up to `timeout_seconds` for something to happen; return all that has happened."""
        events = [*self._actors.events(timeout_seconds), *self._storage.events()]
        if self._cluster_is_asked:
            self._cluster_is_asked = False
            events.append(ClusterSeen(cluster_resources(), draining_nodes()))
        return events

    def close(self, timeout_seconds: float) -> None:
        """End all processes; try for up to `timeout_seconds` to write what is left of the log."""
        self._actors.close()
        self._storage.close(timeout_seconds)


class StorageThread:
    """The only writer of a run's checkpoints and other files.

    Args:
        checkpoints: of the run.
        log: written before every snapshot, so that no snapshot is there without the records of its steps.
        directory: of the run.
    """

    def __init__(self, checkpoints: CheckpointWriter, log: RunLog, directory: RunDirectory) -> None:
        self._directory = directory
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
            case Prune(up_to, best):
                self._checkpoints.prune(up_to, best)
            case EndAt(step, best):
                self._checkpoints.end_at(step, best)
            case WriteFile(name, content):
                self._directory.write_file(name, content)
            case FlushLog():
                pass
        return StorageDone(time.perf_counter() - began, complete, self._checkpoints.news())

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
