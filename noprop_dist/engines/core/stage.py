"""One stage of a run: its state, how far it is, and what was measured of it. Every transition is a method here."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from statistics import median

from noprop_dist.engines.core.commands import Slot
from noprop_dist.engines.core.round_queue import RoundQueue
from noprop_dist.stages import Stage
from noprop_dist.training.progress import StageMeter, StageProgress, StageState

ROUNDS_TO_JUDGE = 3
ROUNDS_REMEMBERED = 8
"""A round that was slow once (imports, a busy machine) must not make a hang go unnoticed for the rest of the run."""


@dataclass(frozen=True)
class Waiting:
    """No worker holds the stage; it begins again from its newest snapshot.

    Attributes:
        since: when it began to wait, monotonic seconds; -inf if its worker's node left, so that it goes to another
            worker at once.
        lost_at: when its worker was lost; None if it was not.
    """

    since: float
    lost_at: float | None = None


@dataclass(frozen=True)
class TakenIn:
    """A worker was given the stage, and has not reported of it yet."""

    worker: Slot
    lost_at: float | None = None


@dataclass(frozen=True)
class Replaying:
    """Its worker does steps again whose records are written already."""

    worker: Slot


@dataclass(frozen=True)
class Training:
    """Its worker does new steps."""

    worker: Slot


@dataclass(frozen=True)
class Leaving:
    """Its worker is sent no more rounds; once its snapshot is here, the stage waits for another worker."""

    worker: Slot
    lost_at: float | None = None


@dataclass(frozen=True)
class Stopped:
    """It takes no further part."""

    why: str


@dataclass(frozen=True)
class Done:
    """All steps are done, and the last snapshot is here."""


State = Waiting | TakenIn | Replaying | Training | Leaving | Stopped | Done
ON_A_WORKER = (TakenIn, Replaying, Training, Leaving)
SHOWN_AS: dict[type[State], StageState] = {
    Waiting: "waiting",
    TakenIn: "starting",
    Replaying: "recovering",
    Training: "training",
    Leaving: "moving",
    Stopped: "stopped",
    Done: "done",
}
"""What people and Prometheus see; a lost stage is "recovering" until it trains again."""


class StageRun:
    """One stage in one run.

    Args:
        stage: its identity.
        queue: of its rounds.
        home: the worker that should hold it.
        now: monotonic seconds.
        changed: called when it has come to another kind of state.
    """

    def __init__(
        self, stage: Stage, queue: RoundQueue, home: Slot, now: float, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.stage = stage
        self.queue = queue
        self.home = home
        self._changed = changed
        self._state: State = Done() if queue.finished else Waiting(since=now)
        self.steps_written = queue.steps_done
        """Steps whose records are written; a replay after a loss is not written again."""
        self.losses = Counter[bool]()
        """Workers that were lost while at work on it, since it got any further; True counts those by the cloud."""
        self._lost_at_step = queue.steps_done
        self._step_seconds = deque[float](maxlen=ROUNDS_REMEMBERED)
        self._rounds_here = 0
        self.usual_step_seconds: float | None = None
        """Median of the last rounds on its present worker, of a step; None before the third: the first are slow."""
        self._meter = StageMeter(stage, queue.steps_done, now)

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        before, self._state = self._state, state
        if type(before) is not type(state):
            self._changed()

    @property
    def worker(self) -> Slot | None:
        """The worker that holds it."""
        return self.state.worker if isinstance(self.state, ON_A_WORKER) else None

    @property
    def waits(self) -> bool:
        return isinstance(self.state, Waiting)

    @property
    def leaving(self) -> bool:
        return isinstance(self.state, Leaving)

    @property
    def stopped(self) -> bool:
        return isinstance(self.state, Stopped)

    @property
    def over(self) -> bool:
        """Return True if there is nothing more to do for it."""
        return isinstance(self.state, Stopped | Done)

    @property
    def is_left(self) -> bool:
        """Return True if it is not trained to its end yet."""
        return not self.over

    @property
    def is_block_left(self) -> bool:
        return self.stage.is_block and not self.over

    @property
    def lost_at(self) -> float | None:
        """When its worker was lost, until it trains again."""
        return self.state.lost_at if isinstance(self.state, Waiting | TakenIn | Leaving) else None

    def is_beyond(self, step: int) -> bool:
        """Return True if it is beyond its snapshot of `step`, and a run can go on from where it stands.

        It cannot go on from the middle of a replay: records reach further, and the older snapshot is as good.
        """
        return step < self.queue.steps_done >= self.steps_written

    @property
    def slowest_step_seconds(self) -> float | None:
        """Mean seconds per step of the slowest of the last 8 rounds, or None before the first report."""
        return max(self._step_seconds, default=None)

    def taken_in(self, worker: Slot, step: int) -> None:
        """A worker was given it, at its snapshot of `step`."""
        self.home = worker
        self._rounds_here, self.usual_step_seconds = 0, None
        self.queue.rewind(step)
        self.state = TakenIn(worker, self.lost_at)

    def reported(self, step: int, steps: int, seconds: float, loss: float | None, now: float) -> bool:
        """Its worker did `steps` steps and came to `step`; return True if they are new, not a replay."""
        self.queue.round_done(step)
        self._step_seconds.append(seconds / steps)
        self._rounds_here += 1
        if self._rounds_here >= ROUNDS_TO_JUDGE:
            self.usual_step_seconds = median(list(self._step_seconds)[-self._rounds_here :])
        new = step > self.steps_written
        if new:
            self.steps_written = step
            self._meter.reported(step, loss, now)
        worker = self.worker
        if worker is not None:
            training = Training(worker) if new else Replaying(worker)
            self.state = Leaving(worker) if self.leaving else training
        return new

    def leave(self) -> None:
        """Send its worker no more rounds, so that another one can take it."""
        if self.worker is not None:
            self.state = Leaving(self.worker, self.lost_at)

    def taken_off(self, step: int, now: float, node_left: bool = False) -> None:
        """No worker holds it any more; it goes on from its snapshot of `step`."""
        self.queue.rewind(step)
        if not self.over:
            self.state = Done() if self.queue.finished else Waiting(-inf if node_left else now, self.lost_at)

    def lost(self, step: int, now: float, node_left: bool) -> None:
        """Its worker was lost."""
        lost_at = now if self.lost_at is None else self.lost_at
        self.taken_off(step, now, node_left)
        if isinstance(self.state, Waiting):
            self.state = Waiting(self.state.since, lost_at)

    def charge(self, by_cloud: bool) -> None:
        """Count a worker that was lost while it was at work on it."""
        self.losses[by_cloud] += 1
        self._lost_at_step = self.steps_written

    def saved(self, step: int) -> None:
        """Its snapshot of `step` is here; beyond where workers were lost, these losses do not count any more."""
        if step > self._lost_at_step:
            self.losses.clear()

    def stop(self, why: str) -> None:
        """It takes no further part."""
        self.state = Stopped(why)

    def end(self) -> None:
        """The run ends here; whatever is under way does not count any more."""
        self.state = Done()

    def row(self) -> StageProgress:
        """Its row of the progress table; may be called from another thread."""
        state = self.state
        if isinstance(state, Waiting | TakenIn) and state.lost_at is not None:
            return self._meter.row("recovering")
        return self._meter.row(SHOWN_AS[type(state)])
