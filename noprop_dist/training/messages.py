"""What crosses between actors, besides `Round`, `RoundReport`, `Snapshot`, `CheckpointEvaluation` and `RunProgress`.

All messages are frozen dataclasses. A round (about 100 kB) goes from the coordinator to a worker, a report (seven
numbers) comes back; a snapshot (weights and optimiser state: three times the weights) comes back at snapshot steps,
and goes out again where a block begins its work on another worker.
"""

import traceback
from dataclasses import dataclass, replace

from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation


@dataclass(frozen=True)
class WorkerFacts:
    """Where an actor found itself, told once it is ready.

    Attributes:
        host: name of the machine.
        node_id: Ray's, of the node that it runs on.
        pid: of the actor's process.
        device: that it computes on.
        replica_pids: of the other processes of its group, where a block has several.
    """

    host: str
    node_id: str
    pid: int
    device: str
    replica_pids: tuple[int, ...] = ()

    def with_replicas(self, pids: tuple[int, ...]) -> "WorkerFacts":
        """The facts of a group's leader."""
        return replace(self, replica_pids=pids)


@dataclass(frozen=True)
class StageFailure:
    """An error in one stage, as a value: the stage stops, the worker's other stages go on.

    Attributes:
        stage: block number 1..T, T + 1 for the classifier, or T + 2 for a learned W_embed.
        step: 0-based step at which it failed, or the first of its round where that is not known.
        cause: "TypeOfError: message".
        trace: the worker's traceback, for the log.
    """

    stage: int
    step: int
    cause: str
    trace: str

    @staticmethod
    def of(stage: int, step: int, error: Exception) -> "StageFailure":
        """The failure that an exception means."""
        trace = "".join(traceback.format_exception(error))
        return StageFailure(stage, getattr(error, "step", step), f"{type(error).__name__}: {error}", trace)


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        directory: of the run.
        step: that every stage has reached.
        evaluation: of the last checkpoint; None where nothing is evaluated, or not any more.
        stopped: whether it was asked to stop before its end; `resume` continues it.
    """

    directory: str
    step: int
    evaluation: CheckpointEvaluation | None
    stopped: bool = False
