"""What is known of one worker: its present process, and the calls under way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from noprop_dist.training.messages import WorkerFacts

ActorHandle = Any
"""Ray's actor handles have no static type."""
CallKind = Literal["facts", "hold", "release", "train", "update", "snapshot", "stop", "evaluate"]
MAIN_LANE = "main"


@dataclass(frozen=True)
class Call:
    """A call under way.

    Attributes:
        kind: the method.
        stage: that it is about; None for none.
        lane: of its worker; calls of a lane are done in order, those of different lanes side by side.
        since: monotonic seconds.
        patience_seconds: without any reply of its worker, until that counts as hung.
    """

    kind: CallKind
    stage: int | None
    lane: str
    since: float
    patience_seconds: float


@dataclass
class Worker:
    """One name, and its present incarnation if it has one.

    Attributes:
        name: such as 'block worker 2'.
        create: makes an actor.
        lanes: stages that it is at work on at the same time.
        incarnation: 1, 2, …; 0 before the first.
        handle: of the actor; None while there is none.
        facts: of the actor, once it is ready.
        calls: under way, the oldest first.
        heard: when the last reply of any incarnation came, by lane.
        losses_in_row: incarnations lost since the last one that did any work.
        retry_at: when the next incarnation may be made.
        given_up: why there will be none.
        leaving: its node is about to go; it takes in no more blocks.
    """

    name: str
    create: Callable[[], ActorHandle]
    lanes: int = 1
    incarnation: int = 0
    handle: ActorHandle = None
    facts: WorkerFacts | None = None
    calls: dict[Any, Call] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)
    losses_in_row: int = 0
    retry_at: float = 0.0
    given_up: str | None = None
    leaving: bool = False

    @property
    def ready(self) -> bool:
        """Whether it can work."""
        return self.facts is not None

    def lane_of(self, stage: int | None) -> str:
        """Where the calls about a stage wait for each other."""
        return MAIN_LANE if stage is None or self.lanes == 1 else lane_name(stage % self.lanes)


def lane_name(number: int) -> str:
    """What Ray calls the lane (a concurrency group of one thread)."""
    return f"lane-{number}"
