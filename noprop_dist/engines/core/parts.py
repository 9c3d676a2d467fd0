"""What one run is made of."""

from dataclasses import dataclass

from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.core.actors import ActorPool
from noprop_dist.engines.core.assignment import Assignment
from noprop_dist.engines.core.commands import Command
from noprop_dist.engines.core.dispatch import Dispatch
from noprop_dist.engines.core.evaluations import Evaluations
from noprop_dist.engines.core.journal import Journal
from noprop_dist.engines.core.snapshots import Snapshots
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.stages import Stage


@dataclass(frozen=True)
class Parts:
    """The parts of one run; `recovery` and `stopping` work on several of them at once.

    Attributes:
        engine: settings.
        outbox: commands of this turn, in order.
        journal: what is written down and told.
        stages: in the order of the progress table.
        pool: the actors.
        snapshots: of the stages, and what is to be written.
        assignment: which stage is where.
        dispatch: sends rounds.
        evaluations: that wait.
    """

    engine: EngineSettings
    outbox: list[Command]
    journal: Journal
    stages: dict[Stage, StageRun]
    pool: ActorPool
    snapshots: Snapshots
    assignment: Assignment
    dispatch: Dispatch
    evaluations: Evaluations
