"""The newest snapshot of every stage in memory, and the queue of what is to be written.

What cannot be written is tried again while training goes on. Where some may be left out, storage that is slow or fails
holds up no stage, and memory stays bounded: of each stage two unwritten snapshots are kept beside one that is being
written. One is the newest. The other is that of the roundest checkpoint: the n-th of the run with the highest power of
two in n. All stages choose by n alone. So if at most 2^k checkpoints pass while a snapshot of each stage is written,
every stage writes each (2^k)-th one, and these checkpoints are whole.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from math import inf

from noprop_dist.engines.core.commands import (
    Command,
    EndAt,
    FlushLog,
    Log,
    Prune,
    StorageTask,
    UseStorage,
    WriteFile,
    WriteSnapshot,
)
from noprop_dist.engines.core.events import StorageDone
from noprop_dist.records import SnapshotWritten
from noprop_dist.stages import Stage
from noprop_dist.storage.snapshot import Snapshot

FLUSH_SECONDS = 2.0
WAITING_SNAPSHOTS = 2
"""Of each stage, beside one that is being written."""
SNAPSHOTS_AT_ONCE = 4
"""Snapshots of different stages that are written at the same time, where the storage can. Each takes its size again."""
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 10.0


class Snapshots:
    """Snapshots of one run, and the storage tasks that they make: in order, one at a time or several snapshots.

    Args:
        outbox: where commands are appended.
        newest: snapshots that the run begins with.
        now: monotonic seconds.
        together_at: if stages share a learned W_embed, the steps at which all can go on together: snapshots of other
            steps are kept in memory, where a stage that moves goes on from them, and are not written. Else None.
        checkpoint_steps: rising; a snapshot of another step is the first to be left out.
        all_wanted: leave none out while the storage works, and let stages wait instead: by a run's checkpoints it is
            decided when it ends and what is kept, and that must not depend on time.

    Attributes:
        under_way_since: when the oldest task under way began, or became the oldest; None if there is none.
        failing_since: when the storage began to fail; None while it works.
    """

    def __init__(
        self,
        outbox: list[Command],
        newest: Mapping[Stage, Snapshot],
        now: float,
        together_at: Collection[int] | None = None,
        checkpoint_steps: Sequence[int] = (),
        *,
        all_wanted: bool = True,
    ) -> None:
        self._together_at, self._all_wanted = together_at, all_wanted
        self._number_of = {step: number for number, step in enumerate(checkpoint_steps, start=1)}
        self._outbox = outbox
        self._newest = dict(newest)
        self._to_write = dict(newest)
        self._tasks: deque[StorageTask] = deque()
        self._under_way = 0  # so many of the first of these
        self._unwritten = Counter[Stage]()  # of the snapshots in these tasks: asked at every turn for every stage
        self._flushed_at = now
        self._retry_at, self._retry_seconds = now, FIRST_RETRY_SECONDS
        self.under_way_since: float | None = None
        self.failing_since: float | None = None
        self._ends_at = inf

    def add(self, snapshot: Snapshot) -> None:
        """Keep a stage's newest snapshot, and have it written if a run can go on from there."""
        if snapshot.step > self._ends_at:
            return
        self._newest[snapshot.stage] = snapshot
        if self._together_at is not None and snapshot.step not in self._together_at:
            return
        self._to_write[snapshot.stage] = snapshot
        self._tasks.append(WriteSnapshot(snapshot))
        self._unwritten[snapshot.stage] += 1
        if self.failing_since is not None or not self._all_wanted:
            self._drop_overtaken(snapshot.stage)

    def prune(self, up_to: int, best: tuple[int, ...] | None) -> None:
        """Have old checkpoints deleted, and none after step `up_to`; see `Prune`."""
        self._tasks.append(Prune(up_to, best))

    def end_at(self, step: int, best: tuple[int, ...]) -> None:
        """Have all deleted that was saved after `step`, and write nothing more of it; see `EndAt`."""
        self._ends_at = step
        waiting = islice(self._tasks, self._under_way, None)
        self._keep(
            [*(t for t in waiting if not isinstance(t, WriteSnapshot) or t.snapshot.step <= step), EndAt(step, best)]
        )

    def flush(self) -> None:
        """Have the log written."""
        self._tasks.append(FlushLog())

    def write_file(self, name: str, content: bytes) -> None:
        """Have a file written into the run directory."""
        self._tasks.append(WriteFile(name, content))

    def newest(self, stage: Stage) -> Snapshot | None:
        """A stage's newest snapshot, written or not."""
        return self._newest.get(stage)

    def newest_step(self, stage: Stage) -> int:
        """The step of that snapshot; 0 if there is none."""
        snapshot = self._newest.get(stage)
        return 0 if snapshot is None else snapshot.step

    def saved_step(self, stage: Stage) -> int:
        """The step of its newest one that is written, or is to be; 0 if there is none."""
        snapshot = self._to_write.get(stage)
        return 0 if snapshot is None else snapshot.step

    def unwritten(self, stage: Stage) -> int:
        """How many of a stage's snapshots wait to be written."""
        return self._unwritten[stage]

    def holding_up(self, stage: Stage) -> int:
        """How many of these its rounds have to wait for, if they are too many."""
        return self._unwritten[stage] if self._all_wanted else 0

    @property
    def busy(self) -> bool:
        """Return True if anything waits to be written."""
        return bool(self._tasks)

    def advance(self, now: float) -> None:
        """Begin with the next tasks: with one if none is under way, and with snapshots beside other snapshots."""
        if not self._tasks and now - self._flushed_at > FLUSH_SECONDS:
            self.flush()
        while now >= self._retry_at and self._may_begin():
            if self.under_way_since is None:
                self.under_way_since = now
            self._outbox.append(UseStorage(self._tasks[self._under_way]))
            self._under_way += 1

    def _may_begin(self) -> bool:
        """Return True if the next task may be under way beside those that are."""
        if self._under_way == min(len(self._tasks), SNAPSHOTS_AT_ONCE):
            return False
        *before, task = islice(self._tasks, self._under_way + 1)
        if not before:
            return True
        stages = [each.snapshot.stage for each in (*before, task) if isinstance(each, WriteSnapshot)]
        return len(set(stages)) == self._under_way + 1

    def done(self, event: StorageDone, now: float) -> int | None:
        """The first task under way is done; return the step of the checkpoint that it completed, if it did."""
        self._under_way -= 1
        self.under_way_since = now if self._under_way else None
        self._flushed_at = now
        self.failing_since, self._retry_seconds = None, FIRST_RETRY_SECONDS
        task = self._tasks.popleft()
        if not isinstance(task, WriteSnapshot):
            return None
        snapshot = task.snapshot
        self._unwritten[snapshot.stage] -= 1
        written = SnapshotWritten(
            stage=snapshot.stage, step=snapshot.step, bytes=snapshot.nbytes, seconds=event.seconds
        )
        self._outbox.append(Log(written))
        return snapshot.step if event.checkpoint_complete else None

    def failed(self, now: float) -> None:
        """The first task under way failed, and none is any more; they are tried again later."""
        self._under_way, self.under_way_since = 0, None
        if self.failing_since is None:
            self.failing_since = now
        self._retry_at = now + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, LONGEST_RETRY_SECONDS)
        for stage in tuple(self._unwritten):
            self._drop_overtaken(stage)

    def _drop_overtaken(self, stage: Stage) -> None:
        """Of a stage's snapshots that wait, keep the newest and the one of the roundest checkpoint before it."""
        if self._unwritten[stage] <= WAITING_SNAPSHOTS:
            return
        waiting = list(islice(self._tasks, self._under_way, None))
        snapshots = [task.snapshot for task in waiting if isinstance(task, WriteSnapshot)]
        steps = [snapshot.step for snapshot in snapshots if snapshot.stage == stage]
        if len(steps) <= WAITING_SNAPSHOTS:
            return
        kept = {steps[-1], max(steps[:-1], key=self._roundness)}
        self._keep(
            task
            for task in waiting
            if not isinstance(task, WriteSnapshot) or task.snapshot.stage != stage or task.snapshot.step in kept
        )

    def _roundness(self, step: int) -> int:
        """The highest power of two in the number of a checkpoint; 0 of a step that is none."""
        number = self._number_of.get(step, 0)
        return number & -number

    def _keep(self, tasks: Iterable[StorageTask]) -> None:
        """Keep those that are under way, and these."""
        self._tasks = deque([*islice(self._tasks, self._under_way), *tasks])
        self._unwritten = Counter(task.snapshot.stage for task in self._tasks if isinstance(task, WriteSnapshot))
