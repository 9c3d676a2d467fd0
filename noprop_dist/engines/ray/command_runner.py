"""Carries out what the core asks for, and tells it what came of that. Decides nothing."""

from noprop_dist.engines.core.commands import (
    AskCluster,
    CallActor,
    Command,
    End,
    GiveUpStage,
    KillActor,
    Log,
    StartActor,
    UseStorage,
)
from noprop_dist.engines.core.events import ClusterSeen, Event
from noprop_dist.engines.ray.actors import RayActors
from noprop_dist.engines.ray.cluster import cluster_resources, draining_nodes
from noprop_dist.engines.ray.storage_thread import StorageThread
from noprop_dist.storage.checkpoint_writer import CheckpointWriter
from noprop_dist.training.run_log import RunLog


class CommandRunner:
    """Carries out the commands of one run.

    Args:
        actors: of the run, on Ray.
        checkpoints: of the run.
        log: of the run.
    """

    def __init__(self, actors: RayActors, checkpoints: CheckpointWriter, log: RunLog) -> None:
        self._actors = actors
        self._checkpoints = checkpoints
        self._log = log
        self._storage = StorageThread(checkpoints, log)
        self._cluster_is_asked = False

    def carry_out(self, command: Command) -> None:
        """Carry out one command; never waits for an answer."""
        match command:
            case StartActor():
                self._actors.start(command)
            case CallActor():
                self._actors.call(command)
            case KillActor(process):
                self._actors.kill(process)
            case UseStorage(task):
                self._storage.begin(task)
            case GiveUpStage(stage):
                self._checkpoints.give_up(stage)
            case Log(record):
                self._log.add(record)
            case AskCluster():
                self._cluster_is_asked = True
            case End():
                pass  # the coordinator's loop ends with it

    def events(self, timeout_seconds: float) -> list[Event]:
        """Wait up to `timeout_seconds` for something to happen; return all that has happened."""
        events = [*self._actors.events(timeout_seconds), *self._storage.events()]
        if self._cluster_is_asked:
            self._cluster_is_asked = False
            events.append(ClusterSeen(cluster_resources(), draining_nodes()))
        return events

    def close(self, timeout_seconds: float) -> None:
        """End all processes; try for up to `timeout_seconds` to write what is left of the log."""
        self._actors.close()
        self._storage.close(timeout_seconds)
