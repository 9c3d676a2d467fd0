"""What follows from the loss of an actor: a pure function of what was lost and of the budgets.

The loss of a coordinator is its driver's to count.
"""

from dataclasses import dataclass

from noprop_dist.records import LossReason
from noprop_dist.training.progress import RunProgress

BY_CLOUD: tuple[LossReason, ...] = ("node_leaving", "node_died")
"""Losses with which the run has nothing to do: its machine was preempted, scaled away, or died."""
LONGEST_BACK_OFF_SECONDS = 30.0
UNLIMITED = -1


@dataclass(frozen=True)
class Loss:
    """An actor that is gone.

    Attributes:
        reason: how it was lost.
        cause: for people.
        constructor_raised: whether its constructor raised.
        losses_in_row: earlier losses of its slot since an incarnation did any work.
        stage_failures: earlier losses of this kind, since the stage at work got any further; None if there was no such
            stage, or that was over.
    """

    reason: LossReason
    cause: str
    constructor_raised: bool
    losses_in_row: int
    stage_failures: int | None

    @property
    def by_cloud(self) -> bool:
        """Return True if its machine went, and not the process alone."""
        return self.reason in BY_CLOUD


@dataclass(frozen=True)
class Decision:
    """What to do.

    Attributes:
        restart_after_seconds: until the slot's next incarnation may start; None if there will be none.
        charge_stage: whether the loss counts against the budget of the stage at work.
        stop_stage: why the stage at work takes no further part; None if it begins again.
    """

    restart_after_seconds: float | None
    charge_stage: bool
    stop_stage: str | None


def after_loss(loss: Loss, max_failures: int, max_preemption_failures: int = UNLIMITED) -> Decision:
    """Decide what follows from the loss of an actor.

    Args:
        loss: what is gone.
        max_failures: losses of processes that a stage may be charged with; -1 is any number.
        max_preemption_failures: the same of losses by the cloud.
    """
    restart = None if loss.constructor_raised else back_off_seconds(loss.losses_in_row)
    if loss.stage_failures is None:
        return Decision(restart, charge_stage=False, stop_stage=None)
    failures = loss.stage_failures + 1
    budgets = ("max_failures", max_failures), ("max_preemption_failures", max_preemption_failures)
    setting, most = budgets[loss.by_cloud]
    if within_budget(failures, most):
        return Decision(restart, charge_stage=True, stop_stage=None)
    why = (
        f"{failures} workers were lost while at work on it, engine.{setting}={most} are allowed; "
        f"the last one: {loss.cause}"
    )
    return Decision(restart, charge_stage=True, stop_stage=why)


def within_budget(failures: int, max_failures: int) -> bool:
    """Return True if so many failures are allowed."""
    return max_failures == UNLIMITED or failures <= max_failures


def back_off_seconds(losses_in_row: int) -> float:
    """Seconds until the next try after so many losses before this one: 0, 1, 2, 4, … 30."""
    return 0.0 if losses_in_row == 0 else min(2.0 ** (losses_in_row - 1), LONGEST_BACK_OFF_SECONDS)


class CoordinatorLosses:
    """The coordinators that a driver has lost in a row: since one last got a block to train.

    Args:
        max_failures: coordinators that may be lost in a row; -1 is any number.
        storage_timeout_seconds: for which the storage may fail a coordinator that takes the place of a lost one.
    """

    def __init__(self, max_failures: int, storage_timeout_seconds: float) -> None:
        self._max_failures = max_failures
        self._storage_timeout_seconds = storage_timeout_seconds
        self._any_lost = False
        self._in_row = self._storage_failures = 0
        self._storage_fails_since: float | None = None

    def reset_by(self, progress: RunProgress) -> bool:
        """Begin to count anew if a stage trains; return True if one does."""
        trains = any(stage.state == "training" for stage in progress.stages)
        if trains:
            self._in_row = self._storage_failures = 0
            self._storage_fails_since = None
        return trains

    def lost(self, by_cloud: bool = False) -> float | None:
        """Take in a loss; return the seconds until the next coordinator may start, or None if there may be none.

        Args:
            by_cloud: whether its machine went; that is not counted.
        """
        self._any_lost = True
        if by_cloud:
            return 0.0
        self._in_row += 1
        return back_off_seconds(self._in_row - 1) if within_budget(self._in_row, self._max_failures) else None

    def storage_failed(self, now: float) -> float | None:
        """Take in that a coordinator ended because the run directory could not be read or written.

        Args:
            now: monotonic seconds.

        Returns:
            The seconds until the next one may start. None if there may be none: the storage has failed for too long, or
            no coordinator was lost before, and the user, who has just started the run, is told at once.
        """
        if not self._any_lost:
            return None
        since = self._storage_fails_since = now if self._storage_fails_since is None else self._storage_fails_since
        left = since + self._storage_timeout_seconds - now
        self._storage_failures += 1
        return min(back_off_seconds(self._storage_failures), left) if left > 0 else None
