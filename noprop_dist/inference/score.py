"""How good checkpoints are: which ones are the best, and when a run that gets no better ends.

All of it follows from the figures of the checkpoints in the order of their steps, and from nothing else. So both
engines, and a run that was resumed, come to the same decisions.
"""

from collections.abc import Collection, Iterable
from math import inf, isnan

from noprop_dist.config.schema import EarlyStoppingSettings, Score
from noprop_dist.errors import UserError
from noprop_dist.records import Evaluated, ObjectiveMeasured, Record
from noprop_dist.run_plan import RunPlan
from noprop_dist.storage.run_directory import RunDirectory

LOWER_IS_BETTER = "validation cross-entropy", "validation objective"


class Scores:
    """The figures of a run's checkpoints.

    Args:
        score: the figure that counts.
        early_stopping: None for never.
        records: of the run so far; those that are no evaluation do not count.
    """

    def __init__(
        self, score: Score, early_stopping: EarlyStoppingSettings | None = None, records: Iterable[Record] = ()
    ) -> None:
        self._score = score
        self._early_stopping = early_stopping
        self._goodness: dict[int, float] = {}
        self.add(records)

    def add(self, records: Iterable[Record]) -> None:
        """Take in what was measured. Of a checkpoint that was measured twice, the first figure counts."""
        for measured in filter(None, (_figure(record, self._score) for record in records)):
            step, figure = measured
            goodness = -figure if self._score in LOWER_IS_BETTER else figure
            self._goodness.setdefault(step, -inf if isnan(goodness) else goodness)

    @property
    def last_step(self) -> int:
        """The newest step that was measured; 0 if there is none."""
        return max(self._goodness, default=0)

    @property
    def decides(self) -> bool:
        """Return True if the run may end early."""
        return self._early_stopping is not None

    def best(self, count: int, among: Iterable[int] | None = None) -> tuple[int, ...]:
        """The steps of the best checkpoints, the best one first; of equally good ones the earliest.

        Args:
            count: how many at most.
            among: steps that may be chosen; None is all.
        """
        steps = self._goodness.keys() if among is None else self._goodness.keys() & set(among)
        return tuple(sorted(steps, key=lambda step: (-self._goodness[step], step))[:count])

    def stop_step(self, complete: Collection[int]) -> int | None:
        """The newest measured step if the run ends with it, for want of an improvement; else None.

        Args:
            complete: steps of checkpoints that are there. A run whose patience was changed may have deleted its own.
        """
        if self._early_stopping is None or self.last_step not in complete:
            return None
        best, in_vain = -inf, 0
        for step in sorted(self._goodness):
            better = self._goodness[step] > best + self._early_stopping.min_delta
            best, in_vain = (self._goodness[step], 0) if better else (best, in_vain + 1)
        return self.last_step if in_vain >= self._early_stopping.patience else None

    def why_stopped(self, num_to_keep: int) -> str:
        """What people are told of a run that ends early."""
        assert self._early_stopping is not None
        best = self.best(1)[0]
        return (
            f"the run ends early at step {self.last_step}: {self._score} did not get better by more than "
            f"{self._early_stopping.min_delta:g} at {self._early_stopping.patience} checkpoint(s) in a row; the best "
            f"checkpoint is that of step {best}, and the best {num_to_keep} are kept"
        )


def scores_of(plan: RunPlan, records: Iterable[Record] = ()) -> Scores | None:
    """The scores of a run; None if its checkpoints are kept by their age, or are not measured."""
    score = plan.config.score
    return Scores(score, plan.config.training.early_stopping, records) if score is not None and plan.evaluates else None


def last_step_of(plan: RunPlan, directory: RunDirectory, records: Iterable[Record] | None = None) -> int:
    """The step at which a run ends, as far as its records say: it may have ended early.

    Args:
        plan: of the run.
        directory: of the run.
        records: of the run, where they have been read already.
    """
    scores = scores_of(plan, directory.metrics() if records is None else records)
    stop = None if scores is None else scores.stop_step(directory.checkpoints.steps())
    return plan.total_steps if stop is None else stop


def best_steps(directory: RunDirectory) -> tuple[int, ...]:
    """The steps of a run's complete checkpoints, the best one first, those that were not measured last.

    `checkpoint.score` says which is better, or else validation accuracy.
    """
    steps = directory.checkpoints.steps()
    return tuple(dict.fromkeys([*_scores_or_accuracies(directory).best(len(steps), among=steps), *reversed(steps)]))


def best_step(directory: RunDirectory) -> int:
    """The step of a run's best complete checkpoint, by `checkpoint.score` or else by validation accuracy.

    Raises:
        UserError: there is no checkpoint, or none of them was measured.
    """
    steps = directory.checkpoints.steps()
    if not steps:
        directory.checkpoints.manifest()  # which says so
    best = _scores_or_accuracies(directory).best(1, among=steps)
    if not best:
        raise UserError(f"{directory}: none of its checkpoints was measured on validation data, so none is the best")
    return best[0]


def _scores_or_accuracies(directory: RunDirectory) -> Scores:
    return Scores(directory.config().score or "validation accuracy", None, directory.metrics())


def _figure(record: Record, score: Score) -> tuple[int, float] | None:
    """The step and the figure of a record, if it has that figure."""
    match record:
        case Evaluated(split="validation", sampler="mean"):
            figures: dict[str, float] = {
                "validation accuracy": record.accuracy,
                "validation nearest-embedding accuracy": record.nearest_embedding_accuracy,
            }
        case ObjectiveMeasured(split="validation"):
            figures = {
                "validation cross-entropy": record.cross_entropy,
                "validation objective": record.objective,
                "validation elbo": record.elbo,
            }
        case _:
            return None
    return (record.step, figures[score]) if score in figures else None
