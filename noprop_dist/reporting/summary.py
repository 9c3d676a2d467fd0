"""Figures that follow from a run's records: its latest metrics, and how long it trained."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    busy, until = 0.0, 0.0
    for begun, ended in sorted((each.time - each.seconds, each.time) for each in rounds):
        busy += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return busy
