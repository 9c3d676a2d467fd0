"""Device seconds of a run on a cluster that grows and shrinks: those that were there, had work to do, and trained."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from noprop_dist.records import Record, RoundDone, WorkerReady

SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Sample:
    """The nodes that were there at a time (Unix seconds); each is one device."""

    time: float
    nodes: frozenset[str]


@dataclass(frozen=True)
class Span:
    """A short span of time.

    Attributes:
        time: of its beginning, Unix seconds.
        seconds: that it lasted.
        there: devices.
        wanted: those for which the run had work: no more than its unfinished blocks.
        training: device seconds in which rounds that count were trained.
    """

    time: float
    seconds: float
    there: int
    wanted: int
    training: float


@dataclass(frozen=True)
class DeviceSeconds:
    """Sums over several spans; see `Span`."""

    there: float
    wanted: float
    training: float

    @property
    def share(self) -> float:
        """Of the device seconds for which the run had work, those in which it trained."""
        return self.training / self.wanted if self.wanted else 0.0


@contextmanager
def watched(devices: Callable[[], frozenset[str]]) -> Iterator[list[Sample]]:
    """Note the devices of a cluster every fifth of a second during a `with`."""
    samples: list[Sample] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            samples.append(Sample(time.time(), devices()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def spans(samples: Sequence[Sample], records: Sequence[Record], blocks: int, steps: int) -> list[Span]:
    """What the devices did from each sample to the next, given the run's records, its blocks and steps of each."""
    busy = training_of(records)
    ends = [each.time for each in _block_rounds(records) if each.step == steps]
    found = []
    for this, after in pairwise(samples):
        unfinished = blocks - sum(end <= this.time for end in ends)
        trained = sum(_within(intervals, this.time, after.time) for intervals in busy.values())
        there = len(this.nodes)
        found.append(Span(this.time, after.time - this.time, there, min(there, unfinished), trained))
    return found


def device_seconds(found: Sequence[Span], begun: float, ended: float) -> DeviceSeconds:
    """The sums over all spans that begin between two times."""
    within = [span for span in found if begun <= span.time < ended]
    return DeviceSeconds(
        sum(span.there * span.seconds for span in within),
        sum(span.wanted * span.seconds for span in within),
        sum(span.training for span in within),
    )


def training_of(records: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    """The times (begin, end) in which each node trained a block, in order and without overlap."""
    node_of: dict[str | None, str] = {}
    found: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if isinstance(record, WorkerReady):
            node_of[record.worker] = record.node_id
        elif isinstance(record, RoundDone) and record.stage.is_block:
            intervals = found.setdefault(node_of[record.worker], [])
            begun = record.time - record.seconds
            intervals.append((max(begun, intervals[-1][1]) if intervals else begun, record.time))
    return found


def start_up_seconds(samples: Sequence[Sample], records: Sequence[Record], since: float) -> float:
    """Device seconds from a node's coming until it first trained, over the nodes that came after a time and trained."""
    came: dict[str, float] = {}
    for sample in samples:
        for node in sample.nodes:
            came.setdefault(node, sample.time)
    first = {node: busy[0][0] for node, busy in training_of(records).items() if came.get(node, since) > since}
    return sum(max(0.0, begun - came[node]) for node, begun in first.items())


def first_step(records: Sequence[Record]) -> float:
    """When the first step of any block was done, Unix seconds."""
    return min(each.time - each.seconds * (1 - 1 / each.steps) for each in _block_rounds(records))


def last_step(records: Sequence[Record]) -> float:
    """When the last step of any block was done, Unix seconds."""
    return max(each.time for each in _block_rounds(records))


def smoothed(found: Sequence[Span]) -> list[float]:
    """Devices that trained in each span: means over about a second."""
    means = []
    for index in range(len(found)):
        near = found[max(0, index - 2) : index + 3]
        means.append(sum(span.training for span in near) / sum(span.seconds for span in near))
    return means


def _block_rounds(records: Sequence[Record]) -> list[RoundDone]:
    return [each for each in records if isinstance(each, RoundDone) and each.stage.is_block]


def _within(intervals: Sequence[tuple[float, float]], begun: float, ended: float) -> float:
    return sum(max(0.0, min(last, ended) - max(first, begun)) for first, last in intervals)
