"""What follows a run: a `Callback` is told of every record, where the run lives.

That is the coordinator's process on Ray, and this process in the sequential engine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from noprop_dist.config.schema import RunConfig
from noprop_dist.records import (
    CheckpointCompleted,
    EmbeddingUpdated,
    Evaluated,
    ObjectiveMeasured,
    Record,
    RoundDone,
    RunEnded,
)
from noprop_dist.run_plan import RunPlan


@dataclass(frozen=True)
class RunInfo:
    """A run as its callbacks know it.

    Attributes:
        name: the last part of its directory's name.
        directory: its path or URI, without any secret.
        plan: its stages, steps and sizes.
        folder: where trackers write; need not exist.
        pictures: draws PNGs by name: `loss`, and `path` where a whole network of images is there. Takes seconds.
        earlier: records of the processes of the run before this one; empty for a new run.
    """

    name: str
    directory: str
    plan: RunPlan
    folder: Path
    pictures: Callable[[], Mapping[str, bytes]] = field(default=dict)
    earlier: tuple[Record, ...] = ()

    @property
    def config(self) -> RunConfig:
        return self.plan.config


class Callback:
    """Follows one run; override what is of interest.

    The methods of one callback are called one after the other, in a thread of its own. One that is slow holds up no
    step; one that raises is told once, and the run goes on. Each process of a run (a `resume`, or a new coordinator
    after a loss) begins with a copy of the callback as it was handed to `train`, and with `on_start`. No record comes
    twice: what earlier processes wrote is in `run.earlier`, and only what is new is told.
    """

    def on_start(self, run: RunInfo) -> None:
        """The run begins, or goes on. If this raises, nothing else is called."""

    def on_round(self, record: RoundDone | EmbeddingUpdated) -> None:
        """A stage trained a round, or a learned W_embed has a new version."""

    def on_checkpoint(self, record: CheckpointCompleted) -> None:
        """A checkpoint is complete."""

    def on_evaluation(self, record: Evaluated | ObjectiveMeasured) -> None:
        """A checkpoint was measured: one record for each split and sampler, and one for the terms of Eq. 8."""

    def on_event(self, record: Record) -> None:
        """Anything else: workers that are ready or lost, stages that recover or fail, snapshots, news."""

    def on_end(self, record: RunEnded) -> None:
        """This process of the run is over; about `host.END_SECONDS` are left."""


def method_for(record: Record) -> str:
    """The method of `Callback` that a record goes to."""
    match record:
        case RoundDone() | EmbeddingUpdated():
            return "on_round"
        case CheckpointCompleted():
            return "on_checkpoint"
        case Evaluated() | ObjectiveMeasured():
            return "on_evaluation"
        case RunEnded():
            return "on_end"
    return "on_event"
