"""What the core asks for: the commands that `decide` returns. Whoever carries these out has nothing to decide."""

from dataclasses import dataclass
from typing import Any, Literal

from noprop_dist.engines.core.placement import WorkerPlace
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.records import Record
from noprop_dist.stages import Stage
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.embedding import EmbeddingUpdate

Role = Literal["block worker", "classifier worker", "evaluator"]


@dataclass(frozen=True, order=True, slots=True)
class Slot:
    """A name for an actor, which holds for the whole run; `index` counts block workers from 1."""

    role: Role
    index: int = 0

    @property
    def name(self) -> str:
        """For people and records: "block worker 2", "classifier worker" or "evaluator"."""
        return f"{self.role} {self.index}" if self.index else self.role


CLASSIFIER_WORKER = Slot("classifier worker")
EVALUATOR = Slot("evaluator")
NO_WORKER = Slot("block worker")
"""The home of a block for which no worker has been chosen: the next one that is ready takes it in."""


@dataclass(frozen=True, slots=True)
class Incarnation:
    """The n-th process of a slot, from 1."""

    slot: Slot
    number: int


@dataclass(frozen=True)
class DescribeYourself:
    """Answered with `WorkerFacts`, once the actor is ready."""


@dataclass(frozen=True)
class Hold:
    """Take a stage in, at a snapshot or (without one) at step 0; answered with None or a `StageFailure`."""

    stage: Stage
    snapshot: Snapshot | None


@dataclass(frozen=True)
class Release:
    """Let a stage go; answered with None."""

    stage: Stage


@dataclass(frozen=True)
class Train:
    """Train a round; answered with a `RoundReport`, a `StageFailure`, or None if the worker was told to stop."""

    round: RoundKey


@dataclass(frozen=True)
class UpdateEmbedding:
    """Make the next version of W_embed; answered with (`EmbeddingVersion`, `EmbeddingReport`) or a `StageFailure`."""

    update: EmbeddingUpdate


@dataclass(frozen=True)
class TakeSnapshot:
    """Answered with a stage's `Snapshot` after the calls before, or with a `StageFailure`."""

    stage: Stage


@dataclass(frozen=True)
class Evaluate:
    """Measure the checkpoint of a step; answered with a `CheckpointEvaluation`."""

    step: int


@dataclass(frozen=True)
class Stop:
    """Begin no further step; answered with None, at once."""


@dataclass(frozen=True)
class Ping:
    """Answered with None, at once, whatever else is under way."""


Request = DescribeYourself | Hold | Release | Train | UpdateEmbedding | TakeSnapshot | Evaluate | Stop | Ping
METHODS: dict[type[Request], str] = {
    DescribeYourself: "facts",
    Hold: "hold",
    Release: "release",
    Train: "train",
    UpdateEmbedding: "update",
    TakeSnapshot: "snapshot",
    Evaluate: "evaluate",
    Stop: "stop",
    Ping: "ping",
}
"""The method of an actor that answers a request."""


def arguments_of(request: Request) -> tuple[Any, ...]:
    """What that method is called with: the fields of the request."""
    return tuple(vars(request).values())


@dataclass(frozen=True)
class StartActor:
    """Start a process.

    Attributes:
        process: to start.
        place: what it asks of the cluster; None for a process without a core of its own.
        lanes: stages that it trains at the same time.
        avoided_node: where it is not to be; "" for none.
    """

    process: Incarnation
    place: WorkerPlace | None
    lanes: int
    avoided_node: str = ""


@dataclass(frozen=True)
class KillActor:
    """End a process, whatever state it is in; no event of it counts any more."""

    process: Incarnation


@dataclass(frozen=True)
class CallActor:
    """Call a process; calls of one lane are done in order. The event `Replied` names the call's number."""

    call: int
    process: Incarnation
    lane: str
    request: Request


@dataclass(frozen=True)
class WriteSnapshot:
    """Write the log, then a snapshot and, with the last one of its step, the checkpoint's manifest."""

    snapshot: Snapshot


@dataclass(frozen=True)
class Prune:
    """Write the log, then delete old checkpoints, and none after step `up_to`.

    Attributes:
        up_to: a step.
        best: steps of checkpoints that are kept beside the last one; None keeps the last few.
    """

    up_to: int
    best: tuple[int, ...] | None = None


@dataclass(frozen=True)
class EndAt:
    """Write the log, then delete all that was saved after `step`, and of the checkpoints before it all but the best."""

    step: int
    best: tuple[int, ...]


@dataclass(frozen=True)
class FlushLog:
    """Write the log."""


@dataclass(frozen=True)
class WriteFile:
    """Write the log, then a file by its name in the run directory."""

    name: str
    content: bytes


StorageTask = WriteSnapshot | Prune | EndAt | FlushLog | WriteFile


@dataclass(frozen=True)
class UseStorage:
    """Do one task in the run directory, beside everything else; `StorageDone` or `StorageFailed` tells of it."""

    task: StorageTask


@dataclass(frozen=True)
class GiveUpStage:
    """Keep no further checkpoint waiting for a stage."""

    stage: Stage


@dataclass(frozen=True)
class AskCluster:
    """Ask what the cluster has, and which nodes leave; answered with `ClusterSeen`."""


@dataclass(frozen=True)
class Log:
    """Write a record down; the log adds the time."""

    record: Record


@dataclass(frozen=True)
class End:
    """The run ends now.

    Attributes:
        step: that every stage has reached and saved.
        evaluation: of the last checkpoint; None if nothing was evaluated, or the run was told to stop.
        stopped: whether it was told to stop before all steps were done.
        error: why the run did not come to its end; None if it did.
        handed_over: whether another coordinator is to go on, because this one's node is about to leave.
    """

    step: int
    evaluation: CheckpointEvaluation | None
    stopped: bool
    error: str | None = None
    handed_over: bool = False


Command = StartActor | KillActor | CallActor | UseStorage | GiveUpStage | AskCluster | Log | End
