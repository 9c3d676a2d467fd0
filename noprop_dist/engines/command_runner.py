"""Carries out what the core asks for, and tells it what came of that. Decides nothing."""

from collections.abc import Callable
from typing import Protocol

from noprop_dist.engines.core.commands import (
    AskCluster,
    CallActor,
    Command,
    End,
    GiveUpStage,
    Incarnation,
    KillActor,
    Log,
    StartActor,
    UseStorage,
)
from noprop_dist.engines.core.events import ClusterSeen, Event
from noprop_dist.engines.storage_thread import StorageThread


class Actors(Protocol):
    """The processes of one run."""

    def start(self, command: StartActor) -> None:
        """Start a process; it is ready once it answers."""
        ...

    def call(self, command: CallActor) -> None:
        """Call a method of a process; see `METHODS`."""
        ...

    def kill(self, process: Incarnation) -> None:
        """End a process; nothing more is heard of it."""
        ...

    def events(self, timeout_seconds: float) -> list[Event]:
        """Wait up to `timeout_seconds` for something to happen; return all that has happened."""
        ...

    def close(self) -> None:
        """End all processes."""
        ...


class CommandRunner:
    """Carries out the commands of one run.

    Args:
        actors: of the run.
        storage: of the run.
        see_cluster: what the cluster has now.
    """

    def __init__(self, actors: Actors, storage: StorageThread, see_cluster: Callable[[], ClusterSeen]) -> None:
        self._actors = actors
        self._storage = storage
        self._see_cluster = see_cluster
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
                self._storage.give_up(stage)
            case Log(record):
                self._storage.log(record)
            case AskCluster():
                self._cluster_is_asked = True
            case End():
                pass  # the coordinator's loop ends with it

    def events(self, timeout_seconds: float) -> list[Event]:
        """Wait up to `timeout_seconds` for something to happen; return all that has happened."""
        events = [*self._actors.events(timeout_seconds), *self._storage.events()]
        if self._cluster_is_asked:
            self._cluster_is_asked = False
            events.append(self._see_cluster())
        return events

    def close(self, timeout_seconds: float) -> None:
        """End all processes; try for up to `timeout_seconds` to write what is left of the log."""
        self._actors.close()
        self._storage.close(timeout_seconds)
