"""Checkpoints that wait to be measured: one at a time, in the order of their steps."""

from collections import deque

from noprop_dist.engines.ray.actors import EVALUATOR
from noprop_dist.engines.ray.fleet import Fleet
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation

ATTEMPTS = 3


class Evaluations:
    """One use, in one loop.

    Args:
        fleet: with an evaluator in it, unless nothing is ever added.
        patience_seconds: for one evaluation.
    """

    def __init__(self, fleet: Fleet, patience_seconds: float) -> None:
        self._fleet = fleet
        self._patience_seconds = patience_seconds
        self._waiting: deque[int] = deque()
        self._running: int | None = None
        self._attempts = 0
        self.last: CheckpointEvaluation | None = None

    def add(self, step: int) -> None:
        """A checkpoint is whole."""
        self._waiting.append(step)

    @property
    def busy(self) -> bool:
        """Whether anything waits to be measured or is being measured."""
        return bool(self._waiting) or self._running is not None

    def send(self) -> None:
        """Ask for the next one, if the evaluator is ready and has nothing to do."""
        evaluator = self._fleet.workers.get(EVALUATOR)
        if self._running is None and self._waiting and evaluator is not None and evaluator.ready:
            self._running = self._waiting.popleft()
            self._attempts += 1
            self._fleet.call(evaluator, "evaluate", self._patience_seconds, self._running)

    def take(self, evaluation: CheckpointEvaluation) -> None:
        """The figures came."""
        self.last = evaluation
        self._running, self._attempts = None, 0

    def evaluator_lost(self) -> int | None:
        """What was under way is asked again, a few times; the step that is left out, where that was one too many."""
        step, self._running = self._running, None
        if step is None:
            return None
        if self._attempts < ATTEMPTS:
            self._waiting.appendleft(step)
            return None
        self._attempts = 0
        return step

    def give_up(self) -> list[int]:
        """There will be no evaluator: the steps that are left out."""
        left_out, self._running = list(self._waiting), None
        self._waiting.clear()
        return left_out
