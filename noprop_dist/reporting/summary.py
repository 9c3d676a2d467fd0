"""Figures that follow from a run's records: its latest metrics, and how long it trained."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from noprop_dist.records import EmbeddingUpdated, Evaluated, ObjectiveMeasured, Record, RoundDone
from noprop_dist.stages import EMBEDDING, Stage

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class LatestMetrics:
    """The newest figures of a run.

    Attributes:
        stages: the last round of every stage, and the last update of a learned W_embed.
        evaluations: of the last checkpoint that was measured.
        objective: terms of Eq. 8 of that checkpoint, if they were measured.
    """

    stages: dict[Stage, RoundDone | EmbeddingUpdated]
    evaluations: tuple[Evaluated, ...]
    objective: ObjectiveMeasured | None


def of_kind(records: Iterable[Record], kind: type[Kind]) -> list[Kind]:
    """The records of one class, in their order."""
    return [record for record in records if isinstance(record, kind)]


def latest_metrics(records: Sequence[Record]) -> LatestMetrics:
    stages: dict[Stage, RoundDone | EmbeddingUpdated] = {}
    last: tuple[int, bool] | None = None  # a run that was cut short at a checkpoint was measured there before
    for record in records:
        match record:
            case RoundDone():
                stages[record.stage] = record
            case EmbeddingUpdated():
                stages[EMBEDDING] = record
            case Evaluated() | ObjectiveMeasured():
                last = record.step, record.final
    evaluations = tuple(each for each in of_kind(records, Evaluated) if (each.step, each.final) == last)
    objective = next((each for each in of_kind(records, ObjectiveMeasured) if (each.step, each.final) == last), None)
    return LatestMetrics(stages, evaluations, objective)


def busy_seconds(rounds: Iterable[RoundDone]) -> float:
    """Seconds by the clock in which at least one stage trained: interruptions do not count."""
    return sum((ended - begun for begun, ended in _busy_spans(rounds)), 0.0)


def busy_seconds_to(steps: Iterable[int], rounds: Sequence[RoundDone]) -> dict[int, float]:
    """Count `busy_seconds` up to the moment at which every stage had done so many steps.

    Returns:
        Seconds by step. Steps that a stage has not done, or that are not written down, are left out.
    """
    by_stage: dict[Stage, list[RoundDone]] = {}
    for each in rounds:
        by_stage.setdefault(each.stage, []).append(each)
    spans = list(_busy_spans(rounds))
    begins, before = [begun for begun, _ in spans], [0.0, *accumulate(ended - begun for begun, ended in spans)]

    def busy_until(moment: float) -> float:
        last = bisect_right(begins, moment) - 1
        return 0.0 if last < 0 else before[last] + min(moment, spans[last][1]) - spans[last][0]

    seconds: dict[int, float] = {}
    for step in steps:
        firsts = {stage: bisect_left(done, step, key=lambda each: each.step) for stage, done in by_stage.items()}
        if by_stage and all(first < len(by_stage[stage]) for stage, first in firsts.items()):
            seconds[step] = busy_until(max(by_stage[stage][first].time for stage, first in firsts.items()))
    return seconds


def _busy_spans(rounds: Iterable[RoundDone]) -> Iterator[tuple[float, float]]:
    """(begin, end) of each time in which at least one stage trained, Unix seconds, one after another."""
    begun, until = 0.0, 0.0
    for begin, end in sorted((each.time - each.seconds, each.time) for each in rounds):
        if begin > until:
            if until > begun:
                yield begun, until
            begun = begin
        until = max(until, end)
    if until > begun:
        yield begun, until
