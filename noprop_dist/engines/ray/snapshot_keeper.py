"""The newest snapshot of every stage in memory, and all snapshots on their way into the run directory.

What cannot be written is tried again, and training goes on meanwhile: of each stage the newest unwritten snapshot is
kept (so memory stays bounded), and checkpoints whose snapshots were overtaken are left out.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from noprop_dist.errors import TrainingError
from noprop_dist.storage.checkpoints import CheckpointWriter
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.run_log import RunLog

FLUSH_SECONDS = 2.0
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 10.0


@dataclass(frozen=True, eq=False)
class Job:
    """Something for the writer thread; `snapshot` where it is to save one."""

    run: Callable[[], object]
    snapshot: Snapshot | None = None


@dataclass(frozen=True)
class Done:
    """What came of a job: whether a checkpoint has become whole by it, and how long it took."""

    whole: bool
    seconds: float


class SnapshotKeeper:
    """One use, in one loop; only the writing itself is done in a thread.

    Args:
        writer: of the run's checkpoints.
        log: flushed before every snapshot: none is written without the records of the steps that lead to it.
        snapshots: that the run begins with, by stage.
        timeout_seconds: the storage may fail for so long.
    """

    def __init__(
        self, writer: CheckpointWriter, log: RunLog, snapshots: Mapping[int, Snapshot], timeout_seconds: float
    ) -> None:
        self._writer = writer
        self._log = log
        self._latest = dict(snapshots)
        self._timeout_seconds = timeout_seconds
        self._jobs: deque[Job] = deque()
        self._running: Future[Done] | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint-writer")
        self._flushed = time.monotonic()
        self._failing_since: float | None = None
        self._closed = False
        self._retry_at, self._retry_seconds = 0.0, FIRST_RETRY_SECONDS

    def add(self, snapshot: Snapshot) -> None:
        """Keep a stage's newest snapshot, and write it."""
        self._latest[snapshot.stage] = snapshot
        self._jobs.append(Job(lambda: self._writer.add(snapshot), snapshot))
        if self._failing_since is not None:
            self._drop_overtaken()

    def prune(self, up_to: int) -> None:
        """Delete old checkpoints; see `CheckpointWriter.prune`."""
        self._jobs.append(Job(lambda: self._writer.prune(up_to)))

    def give_up(self, stage: int) -> None:
        """See `CheckpointWriter.give_up`."""
        self._writer.give_up(stage)

    def latest(self, stage: int) -> Snapshot | None:
        """A stage's newest snapshot, written or not."""
        return self._latest.get(stage)

    def latest_step(self, stage: int) -> int:
        """The step of that snapshot; 0 where there is none."""
        snapshot = self._latest.get(stage)
        return 0 if snapshot is None else snapshot.step

    def unsaved(self, stage: int) -> int:
        """How many of a stage's snapshots wait to be written."""
        return sum(job.snapshot is not None and job.snapshot.stage == stage for job in self._jobs)

    @property
    def busy(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._jobs)

    def poll(self) -> int | None:
        """Go on writing; the step of a checkpoint that has become whole just now.

        Raises:
            TrainingError: the storage has failed for too long.
        """
        whole = None
        if self._running is not None and self._running.done():
            whole = self._take(self._running)
            self._running = None
        if not self._jobs and time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._jobs.append(Job(lambda: None))
        if self._running is None and self._jobs and time.monotonic() >= self._retry_at:
            self._running = self._thread.submit(self._run, self._jobs[0])
        return whole

    def close(self, timeout_seconds: float) -> bool:
        """Stop writing, after trying for so long to write all that waits; whether all was written."""
        if self._closed:
            return True
        deadline = time.monotonic() + timeout_seconds
        self._jobs.append(Job(lambda: None))  # what is left of the log
        while self._jobs and time.monotonic() < deadline:
            self.poll()
            time.sleep(0.01)
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        return not self._jobs

    def _run(self, job: Job) -> Done:
        self._log.flush()
        started = time.perf_counter()
        whole = job.run() is True
        return Done(whole, time.perf_counter() - started)

    def _take(self, running: "Future[Done]") -> int | None:
        try:
            done = running.result()
        except OSError as error:
            self._failed(error)
            return None
        if self._failing_since is not None:
            self._log.news("the run directory can be written again")
            self._failing_since, self._retry_seconds = None, FIRST_RETRY_SECONDS
        self._flushed = time.monotonic()
        snapshot = self._jobs.popleft().snapshot
        if snapshot is None:
            return None
        self._log.snapshot(snapshot, done.seconds)
        return snapshot.step if done.whole else None

    def _failed(self, error: OSError) -> None:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            self._log.news(f"the run directory cannot be written: {error}; training goes on and it is tried again")
        elif now - self._failing_since > self._timeout_seconds:
            raise TrainingError(
                f"the run directory could not be written for checkpoint.storage_timeout_seconds="
                f"{self._timeout_seconds:g}: {error}; once it can, `noprop-dist resume` continues the run"
            ) from error
        self._retry_at = now + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, LONGEST_RETRY_SECONDS)
        self._running = None
        self._drop_overtaken()

    def _drop_overtaken(self) -> None:
        """Of every stage only the newest snapshot waits on, and the one that is being written."""
        for job in list(self._jobs):
            written_now = self._running is not None and job is self._jobs[0]
            if job.snapshot is not None and job.snapshot is not self._latest[job.snapshot.stage] and not written_now:
                self._jobs.remove(job)
