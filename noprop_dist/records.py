"""The records of a run: every line of metrics.jsonl as a frozen type, and how it becomes text and back.

`training.run_log` writes them into the file during a run, and `RunDirectory.metrics` reads them.

A line is a JSON object: `kind`, `time` (Unix seconds, when it was written), and the fields of the record's class.
A line that this version does not understand becomes an `UnreadLine`, and is never rewritten.
A round counts once: a line that is there twice, damaged or missing changes no sum of steps.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from types import UnionType
from typing import Any, ClassVar, Literal, Union, cast, get_args, get_origin, get_type_hints

from noprop_dist import phases
from noprop_dist.stages import EMBEDDING, Stage, StageKind

LossReason = Literal["died", "hung", "node_leaving", "node_died", "out_of_memory", "not_started"]


@dataclass(frozen=True, kw_only=True)
class WorkerReady:
    """A process of the run is ready.

    Attributes:
        worker: its name: "block worker 2", "classifier worker", "evaluator" or "coordinator".
        incarnation: 1 for the first process of that name, 2 for the next, …
        host: name of the machine.
        node_id: Ray's identifier of the node.
        pid: of the process.
        device: that it computes on, "cpu" or "cuda:0".
        processor: what it computes with: a GPU's name, or a CPU's architecture and instructions.
        replica_pids: of the other processes that train the same blocks, if a block has several.
        replica_node_ids: their nodes.
        began: when the process began, Unix seconds; 0 where that is unknown.
        imported: when its imports were done.
        time: Unix seconds.
    """

    KIND: ClassVar = "worker"
    worker: str
    incarnation: int
    host: str
    node_id: str
    pid: int
    device: str
    processor: str = ""
    replica_pids: tuple[int, ...] = ()
    replica_node_ids: tuple[str, ...] = ()
    began: float = 0.0
    imported: float = 0.0
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RoundDone:
    """A stage trained the steps of one round.

    Attributes:
        stage: a block, the classifier or the whole network.
        first_step: 0-based.
        steps: that were done.
        step: steps of the stage after this round.
        loss: what was minimised, mean over the steps.
        error: ‖û_t − u_y‖² of a block, cross-entropy in nats of the classifier or the network, mean over the steps.
        gradient_norm: before clipping, mean over the steps.
        seconds: that the steps took.
        peak_memory_bytes: most that the process has used so far, of a GPU's memory or else of the machine's.
        worker: that trained it; None in the sequential engine.
        queue_seconds: from sending the round to its report, less `seconds`.
        time: Unix seconds.
    """

    KIND: ClassVar = "round"
    stage: Stage
    first_step: int
    steps: int
    step: int
    loss: float
    error: float
    gradient_norm: float
    seconds: float
    peak_memory_bytes: int = 0
    worker: str | None = None
    queue_seconds: float | None = None
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EmbeddingUpdated:
    """The owner of a learned W_embed made its next version.

    Attributes:
        first_step: 0-based step of the version before.
        steps: that the version before lasted.
        step: from which the new version holds.
        mean_norm: mean length ‖u_y‖ of the class embeddings.
        least_distance: between two class embeddings; 0 means that two classes have become one.
        gradient_norm: of the update, before clipping.
        seconds: that the update took.
        worker: that made it; None in the sequential engine.
        queue_seconds: from sending the update to its report, less `seconds`.
        time: Unix seconds.
    """

    KIND: ClassVar = "embedding"
    first_step: int
    steps: int
    step: int
    mean_norm: float
    least_distance: float
    gradient_norm: float
    seconds: float
    worker: str | None = None
    queue_seconds: float | None = None
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SnapshotWritten:
    """A stage's snapshot is in the run directory; writing `bytes` took `seconds`."""

    KIND: ClassVar = "snapshot"
    stage: Stage
    step: int
    bytes: int
    seconds: float
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CheckpointCompleted:
    """The snapshots of all stages at `step` are a checkpoint: its manifest is written."""

    KIND: ClassVar = "checkpoint"
    step: int
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Accuracy of a checkpoint on held-out data; see `inference.evaluation.Evaluation`.

    Attributes:
        step: of the checkpoint.
        final: whether it is the last one of the run, measured on the whole test set.
        split: "validation" or "test".
        accuracy: of the classifier on z_T, a fraction.
        nearest_embedding_accuracy: of the class embedding nearest to z_T, a fraction.
        sampler: "mean" or "stochastic".
        passes: that were averaged.
        samples: that were classified.
        time: Unix seconds.
    """

    KIND: ClassVar = "evaluation"
    step: int
    final: bool
    split: str
    accuracy: float
    nearest_embedding_accuracy: float
    sampler: Literal["stochastic", "mean"]
    passes: int
    samples: int
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ObjectiveMeasured:
    """Terms of Eq. 8 of a checkpoint, nats per sample; see `inference.evaluation.ObjectiveTerms`."""

    KIND: ClassVar = "objective"
    step: int
    final: bool
    split: str
    cross_entropy: float
    kl: float
    squared_errors: tuple[float, ...]
    denoising_terms: tuple[float, ...]
    denoising: float
    objective: float
    elbo: float
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What the driver or the coordinator did before the run began.

    Attributes:
        process: "driver" or "coordinator".
        name: of the phase.
        began: Unix seconds.
        seconds: that it took.
        time: Unix seconds, when it was written down.
    """

    KIND: ClassVar = "phase"
    process: str
    name: str
    began: float
    seconds: float
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class News:
    """Something that people were told."""

    KIND: ClassVar = "news"
    text: str
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class WorkerLost:
    """A process of the run is gone.

    Attributes:
        worker: its name.
        incarnation: which process of that name.
        reason: how it was lost.
        cause: for people.
        at_work_on: the stage whose call it was answering.
        time: Unix seconds.
    """

    KIND: ClassVar = "lost"
    worker: str
    incarnation: int
    cause: str
    reason: LossReason = "died"
    at_work_on: Stage | None = None
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StageRecovered:
    """A stage trains again after the loss of its worker.

    Attributes:
        stage: that was lost.
        worker: that it is on now.
        incarnation: of that worker.
        seconds: from the loss to the first report.
        step: of the snapshot that it began again from.
        replayed_steps: done a second time.
        time: Unix seconds.
    """

    KIND: ClassVar = "recovery"
    stage: Stage
    worker: str
    incarnation: int
    seconds: float
    step: int
    replayed_steps: int
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StageFailed:
    """A stage raised an error at a 0-based step, and takes no further part."""

    KIND: ClassVar = "failure"
    stage: Stage
    step: int
    cause: str
    trace: str = ""
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """A process of the run came to its end. A run that is resumed has several.

    Attributes:
        step: that every stage has reached and saved.
        stopped: whether it was told to stop; `resume` goes on.
        error: why the run failed; None if it did not.
        time: Unix seconds.
    """

    KIND: ClassVar = "end"
    step: int
    stopped: bool = False
    error: str | None = None
    time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class UnreadLine:
    """A line that this version cannot read.

    Attributes:
        line: as it stands.
        damaged: whether it is no line of any version; else it is of a later one.
        time: of no meaning.
    """

    KIND: ClassVar = "unread"
    line: str
    damaged: bool = True
    time: float = 0.0


Record = (
    WorkerReady
    | RoundDone
    | EmbeddingUpdated
    | SnapshotWritten
    | CheckpointCompleted
    | Evaluated
    | ObjectiveMeasured
    | News
    | Phase
    | WorkerLost
    | StageRecovered
    | StageFailed
    | RunEnded
    | UnreadLine
)
TYPES: dict[str, Any] = {
    each.KIND: each
    for each in (
        *(WorkerReady, RoundDone, EmbeddingUpdated, SnapshotWritten, CheckpointCompleted, Evaluated),
        *(ObjectiveMeasured, News, Phase, WorkerLost, StageRecovered, StageFailed, RunEnded),
    )
}
STAGE_ID, OLD_STAGES = "_id", ("stage", "at_work_on")
"""A stage is written twice: by its name for people, "block 3", and as ["block", 3] under the same key with `_id`."""
LARGEST = 2**63 - 1
"""No field holds a larger integer; a plot could not take one."""
FIELDS = {kind: {field.name: field.default is MISSING for field in fields(each)} for kind, each in TYPES.items()}
"""Of each kind: its fields, and whether a line must have them."""


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes of which a value of this type is; an integer is a float, too."""
    if get_origin(hint) is Literal:
        return (str,)
    if get_origin(hint) in (Union, UnionType):
        return tuple(one for each in get_args(hint) for one in _classes(each))
    return (int, float) if hint is float else (get_origin(hint) or hint,)


ALLOWED = {
    kind: {name: _classes(hint) for name, hint in get_type_hints(each).items() if name in FIELDS[kind]}
    for kind, each in TYPES.items()
}
OF_TEXTS = {name for each in TYPES.values() for name, hint in get_type_hints(each).items() if hint == tuple[str, ...]}
"""Fields that hold several texts."""


def to_line(record: Record) -> str:
    """The record as one line of metrics.jsonl, without its end."""
    if isinstance(record, UnreadLine):
        return record.line
    values: dict[str, Any] = {"kind": record.KIND}
    for name in FIELDS[record.KIND]:
        value = getattr(record, name)
        if isinstance(value, Stage):
            values |= {name: value.name, name + STAGE_ID: (value.kind, value.index)}
        else:
            values[name] = value
    return json.dumps(values)


def from_line(line: str) -> Record:
    """The record of one line; an `UnreadLine` if it is of an unknown kind, damaged or incomplete."""
    later = False
    try:
        values = json.loads(line)
        kind = values["kind"]
        if kind == "round" and values["stage"] == "embedding":  # written before 2026-11-26
            kind, values = "embedding", _embedding_update(values)
        later = isinstance(kind, str) and kind not in FIELDS
        known = FIELDS[kind]
        record: Record = TYPES[kind](**{name: _typed(values, name) for name in known if name in values})
        _check_types(record)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return UnreadLine(line=line, damaged=not later)
    return record


def is_damaged(record: Record) -> bool:
    """Return True for a line that no version wrote."""
    return isinstance(record, UnreadLine) and record.damaged


def damage_told(records: Iterable[Record], directory: object) -> list[str]:
    """What to tell people of damaged lines in the metrics.jsonl of a directory; empty if there are none."""
    count = sum(map(is_damaged, records))
    return [f"{directory}: {count} line(s) of metrics.jsonl are damaged; a resume sets them aside"] if count else []


def counted_once(records: Iterable[Record]) -> Iterator[Record]:
    """Records without the rounds of steps that an earlier round of the same stage did already."""
    done: dict[Stage, int] = {}
    for record in records:
        if isinstance(record, RoundDone | EmbeddingUpdated):
            stage = record.stage if isinstance(record, RoundDone) else EMBEDDING
            if record.first_step < done.get(stage, 0):
                continue
            done[stage] = record.step
        yield record


def _check_types(record: Record) -> None:
    """Refuse values of other types than the fields have, and what no run has.

    Raises:
        TypeError: as described.
    """
    for name, allowed in ALLOWED[record.KIND].items():
        value = getattr(record, name)
        if type(value) in (float, str) and type(value) in allowed:
            continue  # most are, and there are millions of lines
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise TypeError(f"{name} is {value!r}")
        parts = value if isinstance(value, tuple) else (value,) if isinstance(value, int) else ()
        if not all(map(_is_text if name in OF_TEXTS else _is_number, parts)):
            raise TypeError(f"{name} holds what is not allowed there, or a larger number than any run has")
    if isinstance(record, RoundDone | EmbeddingUpdated) and not 0 < record.steps == record.step - record.first_step:
        raise TypeError(f"{record.steps} steps from {record.first_step} to {record.step}")
    if isinstance(record, Evaluated) and not (
        0 <= record.accuracy <= 1 and 0 <= record.nearest_embedding_accuracy <= 1
    ):
        raise TypeError("an accuracy is no fraction")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= LARGEST)


def to_lines(records: Iterable[Record]) -> bytes:
    """Records as the bytes of metrics.jsonl."""
    return "".join(to_line(record) + "\n" for record in records).encode()


def complete_lines(content: bytes) -> Iterator[str]:
    """The lines of metrics.jsonl; a last one that was cut off by the end of a process is left out."""
    return (line for line in content.decode(errors="replace").split("\n")[:-1] if line)


def _typed(values: Mapping[str, Any], name: str) -> Any:
    value = values[name]
    if name + STAGE_ID in values:
        return _stage(*values[name + STAGE_ID])
    if name in OLD_STAGES and value is not None:  # "block 3" alone: written before 2026-11-26
        kind, _, index = value.partition(" ")
        return _stage(kind, int(index or 0))
    return tuple(value) if isinstance(value, list) else value


def _stage(kind: str, index: int) -> Stage:
    if kind not in get_args(StageKind) or not isinstance(index, int) or not 0 <= index <= LARGEST:
        raise ValueError(f"there is no stage {kind} {index}")
    return Stage(cast(StageKind, kind), index)


def _embedding_update(values: Mapping[str, Any]) -> dict[str, Any]:
    """Versions of W_embed were written as rounds, whose loss and error meant something else."""
    return {**values, "mean_norm": values["loss"], "least_distance": values["error"]}


def noted_phases(process: str) -> tuple[Phase, ...]:
    """The phases of this process since the last call."""
    return tuple(
        Phase(process=process, name=name, began=began, seconds=ended - began) for name, began, ended in phases.take()
    )
