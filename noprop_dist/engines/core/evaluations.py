"""Checkpoints that wait to be measured: one at a time, in the order of their steps."""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.inference.score import Scores

ATTEMPTS = 3
MOST_WAITING = 8
"""Checkpoints that wait are kept; where the evaluator is slower than the training, every second one is left out.

With a score none is left out, for what is kept and when the run ends must not depend on time. Stages wait instead.
"""


class Evaluations:
    """The queue of one run's evaluations.

    Args:
        waiting: steps of checkpoints that an earlier process left to measure, rising.
        scores: of the checkpoints so far; None if they are kept by their age.
        num_to_keep: of the best checkpoints.

    Attributes:
        last: figures of the newest one that was measured.
        undecided: the step of a checkpoint that could not be measured, and so may or may not end the run.
        stop_step: the step of the checkpoint with which the run ends early; None while it does not.
    """

    def __init__(self, waiting: Sequence[int], scores: Scores | None = None, num_to_keep: int = 1) -> None:
        self._waiting = deque(waiting)
        self._scores, self._num_to_keep = scores, num_to_keep
        self._settled = 0 if scores is None else scores.last_step
        self.stop_step: int | None = None
        self.undecided: int | None = None
        self._under_way: int | None = None
        self._attempts = 0
        self._given_up = False
        self.last: CheckpointEvaluation | None = None

    @property
    def busy(self) -> bool:
        """Return True if anything waits to be measured or is being measured."""
        return bool(self._waiting) or self._under_way is not None

    @property
    def best(self) -> tuple[int, ...] | None:
        """The steps of the best checkpoints; None if they are kept by their age."""
        return None if self._scores is None else self._scores.best(self._num_to_keep)

    @property
    def why_stopped(self) -> str:
        """What people are told of a run that ends early."""
        assert self._scores is not None
        return self._scores.why_stopped(self._num_to_keep)

    def may_train_to(self, checkpoint_steps: Sequence[int]) -> int | None:
        """The step that stages may come to before another checkpoint is measured; None is the end of the run."""
        if self._scores is None or self._given_up:
            return None
        settled = bisect_right(checkpoint_steps, self._settled)
        return checkpoint_steps[min(settled + MOST_WAITING, len(checkpoint_steps)) - 1]

    def add(self, step: int) -> list[int]:
        """The checkpoint of `step` is complete; return the steps that are left out."""
        if self._given_up:
            return self._left_out([step])
        self._waiting.append(step)
        if len(self._waiting) <= MOST_WAITING or self._scores is not None:
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
        self._settled = max(self._settled, evaluation.step)
        if self._scores is not None:
            self._scores.add(evaluation.records())
            self.stop_step = None if evaluation.final else self._scores.stop_step((evaluation.step,))

    def evaluator_lost(self, by_cloud: bool) -> list[int]:
        """Ask for the one under way again, a few times; return its step if that was one time too many.

        Args:
            by_cloud: whether its machine went, for which the checkpoint is not to blame.
        """
        step, self._under_way = self._under_way, None
        if step is None:
            return []
        self._attempts -= by_cloud
        if self._attempts < ATTEMPTS:
            self._waiting.appendleft(step)
            return []
        self._attempts = 0
        return self._left_out([step])

    def give_up(self) -> list[int]:
        """There will be no evaluator; return the steps that are left out."""
        self._given_up = True
        left_out = list(self._waiting)
        self._waiting.clear()
        self._under_way = None
        return self._left_out(left_out)

    def _left_out(self, steps: list[int]) -> list[int]:
        self._settled = max([self._settled, *steps])
        if steps and self._scores is not None and self._scores.decides and self.undecided is None:
            self.undecided = steps[0]
        return steps
