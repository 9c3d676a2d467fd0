"""Messages between actors, besides `Round`, `RoundKey`, `Snapshot`, `CheckpointEvaluation` and `RunProgress`.

All are frozen dataclasses. A round (about 100 kB) goes from the coordinator to a worker, and a report (seven numbers)
comes back. A snapshot (three times the weights, with the optimiser's state) comes back at snapshot steps, and goes out
again when a block begins on another worker.
"""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.records import EmbeddingUpdated, RoundDone
from noprop_dist.stages import Stage
from noprop_dist.training.beside import Left


@dataclass(frozen=True)
class WorkerFacts:
    """Where an actor runs; its first reply.

    Attributes:
        host: name of the machine.
        node_id: Ray's identifier of the node.
        pid: of the actor's process.
        device: that it computes on.
        processor: what it computes with: a GPU's name, or a CPU's architecture and instructions.
        replica_pids: of the other processes of its group, if a block has several.
        replica_node_ids: their nodes.
        began: when the process began, Unix seconds; 0 where that is unknown.
        imported: when its imports were done.
    """

    host: str
    node_id: str
    pid: int
    device: str
    processor: str = ""
    replica_pids: tuple[int, ...] = ()
    replica_node_ids: tuple[str, ...] = ()
    began: float = 0.0
    imported: float = 0.0

    def with_replicas(self, others: Sequence["WorkerFacts"]) -> "WorkerFacts":
        """The same facts, with the other processes of the group."""
        pids, nodes = (other.pid for other in others), (other.node_id for other in others)
        return replace(self, replica_pids=tuple(pids), replica_node_ids=tuple(nodes))

    def is_on(self, node_ids: frozenset[str]) -> bool:
        """Return True if a process of it is on one of these nodes."""
        return not node_ids.isdisjoint((self.node_id, *self.replica_node_ids))


@dataclass(frozen=True)
class RoundReport:
    """What one stage did in one round of steps.

    Attributes:
        stage: a block, the classifier or the whole network.
        first_step: 0-based.
        steps: that were done.
        loss: what was minimised, mean over the steps.
        error: ‖û_t − u_y‖² of a block, cross-entropy in nats of the classifier or the network, mean over the steps.
        gradient_norm: before clipping, mean over the steps.
        seconds: that the steps took.
        peak_memory_bytes: most that the process has used so far, of a GPU's memory or else of the machine's.
        embedding_gradient: of the stage's term of Eq. 8 with respect to W_embed, summed over the steps since the
            version of W_embed began, (m, d) float32; None if W_embed is fixed.
    """

    stage: Stage
    first_step: int
    steps: int
    loss: float
    error: float
    gradient_norm: float
    seconds: float
    peak_memory_bytes: int = 0
    embedding_gradient: NDArray[np.float32] | None = None

    @property
    def steps_done(self) -> int:
        """Steps of the stage after this round."""
        return self.first_step + self.steps

    def record(self, worker: str | None = None, queue_seconds: float | None = None) -> RoundDone:
        """The line of metrics.jsonl; see `RoundDone` for what is added here."""
        return RoundDone(
            stage=self.stage,
            first_step=self.first_step,
            steps=self.steps,
            step=self.steps_done,
            loss=self.loss,
            error=self.error,
            gradient_norm=self.gradient_norm,
            seconds=self.seconds,
            peak_memory_bytes=self.peak_memory_bytes,
            worker=worker,
            queue_seconds=queue_seconds,
        )


@dataclass(frozen=True)
class EmbeddingReport:
    """What one update of a learned W_embed did. A W_embed that shrinks or collapses shows here.

    Attributes:
        first_step: 0-based step of the version before.
        steps: that the version before lasted.
        mean_norm: mean length ‖u_y‖ of the class embeddings after the update.
        least_distance: between two class embeddings after the update.
        gradient_norm: of the update, before clipping.
        seconds: that the update took.
    """

    first_step: int
    steps: int
    mean_norm: float
    least_distance: float
    gradient_norm: float
    seconds: float

    @property
    def steps_done(self) -> int:
        """The step from which the new version holds."""
        return self.first_step + self.steps

    def record(self, worker: str | None = None, queue_seconds: float | None = None) -> EmbeddingUpdated:
        """The line of metrics.jsonl; see `EmbeddingUpdated` for what is added here."""
        return EmbeddingUpdated(
            first_step=self.first_step,
            steps=self.steps,
            step=self.steps_done,
            mean_norm=self.mean_norm,
            least_distance=self.least_distance,
            gradient_norm=self.gradient_norm,
            seconds=self.seconds,
            worker=worker,
            queue_seconds=queue_seconds,
        )


@dataclass(frozen=True)
class StageFailure:
    """An error in one stage, as a value: the stage stops, the worker's other stages go on.

    Attributes:
        stage: that failed.
        step: 0-based step at which it failed, or the first of its round if that is not known.
        cause: "TypeOfError: message", one line.
        trace: the worker's traceback, for the log.
    """

    stage: Stage
    step: int
    cause: str
    trace: str

    @staticmethod
    def of(stage: Stage, step: int, error: BaseException) -> "StageFailure":
        """The failure that an exception means."""
        trace = "".join(traceback.format_exception(error))
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        return StageFailure(stage, getattr(error, "step", step), cause, trace)


@dataclass(frozen=True)
class Accompanied:
    """A worker's answer together with what came of the work beside it.

    Attributes:
        answer: to the request.
        left: lines and files.
    """

    answer: Any
    left: Left


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        directory: of the run.
        step: that every stage has reached.
        evaluation: of the last checkpoint; None if nothing was evaluated, or the run was stopped.
        stopped: whether it was asked to stop before its end; `resume` continues it.
    """

    directory: str
    step: int
    evaluation: CheckpointEvaluation | None
    stopped: bool = False
