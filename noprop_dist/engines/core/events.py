"""What happens to a run: the events that `decide` takes. A call without events says that time has passed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from noprop_dist.engines.core.commands import Incarnation
from noprop_dist.engines.core.placement import Resources
from noprop_dist.records import LossReason
from noprop_dist.training.messages import Accompanied


@dataclass(frozen=True)
class Replied:
    """A call was answered; `value` is what its `Request` says."""

    call: int
    value: Any


@dataclass(frozen=True)
class Heard:
    """What came of a stage's work in a worker beside its results.

    Attributes:
        lines: that a network printed, logged or warned; each names its stage.
        files: contents by name in the run directory.
    """

    lines: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class ActorLost:
    """A process is gone.

    Attributes:
        process: that is gone.
        cause: for people.
        constructor_raised: whether its constructor raised; another process would fail in the same way.
        reason: how it was lost.
    """

    process: Incarnation
    cause: str
    constructor_raised: bool = False
    reason: LossReason = "died"


@dataclass(frozen=True)
class StorageDone:
    """The storage task under way is done.

    Attributes:
        seconds: that it took.
        checkpoint_complete: whether the snapshot was the last one that its checkpoint waited for.
        news: lines for people.
    """

    seconds: float
    checkpoint_complete: bool = False
    news: tuple[str, ...] = ()


@dataclass(frozen=True)
class StorageFailed:
    """The storage task under way failed; it may be tried again."""

    cause: str


@dataclass(frozen=True)
class ClusterSeen:
    """What the cluster has now, and the nodes that are about to leave it.

    Attributes:
        resources: without those of leaving nodes.
        leaving_nodes: Ray's identifiers.
        own_node_leaves: whether the coordinator is on one of them.
    """

    resources: Resources
    leaving_nodes: frozenset[str]
    own_node_leaves: bool = False


@dataclass(frozen=True)
class StopRequested:
    """Snapshot every stage where it stands, and end."""


Event = Replied | Heard | ActorLost | StorageDone | StorageFailed | ClusterSeen | StopRequested


def events_of(call: int, answer: Any) -> Iterator[Event]:
    """What a worker's answer to a call means."""
    if isinstance(answer, Accompanied):
        yield Heard(answer.left.lines, answer.left.files)
        answer = answer.answer
    yield Replied(call, answer)
