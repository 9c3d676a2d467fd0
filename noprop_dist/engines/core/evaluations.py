"""Checkpoints that wait to be measured: one at a time, in the order of their steps."""

from collections import deque
from collections.abc import Sequence

from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation

ATTEMPTS = 3
MOST_WAITING = 8
"""Checkpoints that wait are kept; where the evaluator is slower than the training, every second one is left out."""


class Evaluations:
    """The queue of one run's evaluations.

    Args:
        waiting: steps of checkpoints that an earlier process left to measure, rising.
    """

    def __init__(self, waiting: Sequence[int]) -> None:
        self._waiting = deque(waiting)
        self._under_way: int | None = None
        self._attempts = 0
        self._given_up = False
        self.last: CheckpointEvaluation | None = None

    @property
    def busy(self) -> bool:
        """Return True if anything waits to be measured or is being measured."""
        return bool(self._waiting) or self._under_way is not None

    def add(self, step: int) -> list[int]:
        """The checkpoint of `step` is complete; return the steps that are left out."""
        if self._given_up:
            return [step]
        self._waiting.append(step)
        if len(self._waiting) <= MOST_WAITING:
            return []
        waiting = list(self._waiting)
        left_out = waiting[:-1:2]  # never the newest: it may be the last one of the run
        self._waiting = deque(each for each in waiting if each not in left_out)
        return left_out

    def next(self) -> int | None:
        """The checkpoint to measure now; None while one is being measured or none waits."""
        if self._under_way is None and self._waiting:
            self._under_way = self._waiting.popleft()
            self._attempts += 1
            return self._under_way
        return None

    def measured(self, evaluation: CheckpointEvaluation) -> None:
        self.last = evaluation
        self._under_way, self._attempts = None, 0

    def evaluator_lost(self) -> list[int]:
        """Ask for the one under way again, a few times; return its step if that was one time too many."""
        step, self._under_way = self._under_way, None
        if step is None:
            return []
        if self._attempts < ATTEMPTS:
            self._waiting.appendleft(step)
            return []
        self._attempts = 0
        return [step]

    def give_up(self) -> list[int]:
        """There will be no evaluator; return the steps that are left out."""
        self._given_up = True
        left_out = list(self._waiting)
        self._waiting.clear()
        self._under_way = None
        return left_out
