"""The objects that one run consists of."""

from dataclasses import dataclass

from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.core.actor_pool import ActorPool
from noprop_dist.engines.core.assignment import Assignment
from noprop_dist.engines.core.commands import Command
from noprop_dist.engines.core.dispatch import Dispatch
from noprop_dist.engines.core.evaluations import Evaluations
from noprop_dist.engines.core.journal import Journal
from noprop_dist.engines.core.snapshots import Snapshots
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.engines.core.watched import Watched
from noprop_dist.stages import Stage


@dataclass(frozen=True)
class Parts:
    """The objects of one run, for `recovery` and `stopping`, which work on several of them at once.

    Attributes:
        engine: settings.
        outbox: commands of this turn, in order.
        journal: records and news, on their way to the log.
        stages: in the order of the progress table.
        pool: the actors.
        snapshots: the newest of each stage, and the queue of what is to be written.
        assignment: which worker holds which stage.
        dispatch: sends rounds.
        evaluations: checkpoints that wait to be measured.
    """

    engine: EngineSettings
    outbox: list[Command]
    journal: Journal
    stages: Watched[Stage, StageRun]
    pool: ActorPool
    snapshots: Snapshots
    assignment: Assignment
    dispatch: Dispatch
    evaluations: Evaluations
