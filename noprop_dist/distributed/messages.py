"""What crosses between actors, besides `Round`, `RoundReport`, `Snapshot` and `RunProgress`.

All messages are frozen dataclasses. A round (about 100 kB) goes from the coordinator to a worker, a report (seven
numbers) comes back; a snapshot (weights and optimiser state: three times the weights) comes back at checkpoints.
"""

import traceback
from dataclasses import dataclass

from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation


@dataclass(frozen=True)
class WorkerFacts:
    """Where an actor found itself, told once it is ready.

    Attributes:
        node: host name.
        pid: of the actor's process.
        device: that it computes on.
    """

    node: str
    pid: int
    device: str


@dataclass(frozen=True)
class StageFailure:
    """An error in one stage, as a value: the stage stops, the worker's other stages go on.

    Attributes:
        stage: block number 1..T, or T + 1 for the classifier.
        step: 0-based first step of the round that failed.
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
        return StageFailure(stage, step, f"{type(error).__name__}: {error}", trace)


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        directory: of the run.
        step: of its last checkpoint.
        evaluation: of the last checkpoint; None where nothing is evaluated.
    """

    directory: str
    step: int
    evaluation: CheckpointEvaluation | None
