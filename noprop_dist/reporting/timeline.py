"""From the command to the first block-step: what each process did meanwhile, of a run's records."""

from collections.abc import Sequence
from dataclasses import dataclass

from noprop_dist.records import Phase, Record, RoundDone, WorkerReady
from noprop_dist.stages import StageKind

BLOCKS: tuple[StageKind, ...] = ("block", "network")


@dataclass(frozen=True)
class Span:
    """What a process did, and when: seconds from the start of the first process."""

    process: str
    phase: str
    began: float
    ended: float


def timeline_of(records: Sequence[Record]) -> list[Span]:
    """What the processes of a run did until the first block-step, in the order of its beginnings.

    Only what belongs to the first coordinator counts. Times of several machines are those of their clocks.
    """
    spans = [span for record in records for span in _spans(record)]
    first = first_block_step(records)
    spans = [span for span in spans if first is None or span.began < first]
    if first is not None:
        spans.append(Span("run", "first block-step", first, first))
    start = min((span.began for span in spans), default=0.0)
    spans = [Span(each.process, each.phase, each.began - start, each.ended - start) for each in spans]
    return sorted(spans, key=lambda span: (span.began, span.ended))


def first_block_step(records: Sequence[Record]) -> float | None:
    """When the first block-step was done, Unix seconds, taken from its round; None before the first round."""
    rounds = [each for each in records if isinstance(each, RoundDone) and each.stage.kind in BLOCKS]
    return min((each.time - each.seconds * (1 - 1 / each.steps) for each in rounds), default=None)


def _spans(record: Record) -> list[Span]:
    match record:
        case Phase(process=process, name=name, began=began, seconds=seconds):
            return [Span(process, name, began, began + seconds)]
        case WorkerReady(worker=worker, began=began, imported=imported, time=ready) if began:
            imports = [Span(worker, "imports", began, imported)] if imported > began else []  # else it was forked
            return [*imports, Span(worker, "until it is ready", max(began, imported), ready)]
        case RoundDone(worker=str(worker), first_step=0, seconds=seconds, time=time):
            return [Span(worker, f"first round of {record.stage.name}", time - seconds, time)]
    return []
