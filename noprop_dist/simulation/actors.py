"""The actors of one coordinator, as it knows them: its calls, and what it is told of them, in the order of Ray.

Every delay is drawn. What Ray promises is kept: calls of one lane are done in the order in which they were made, and
an actor that is gone is told of once for each call under way. What it does not promise is not kept: a reply may be
seen after later ones, and those of a process that dies may be lost with it.
"""

from collections.abc import Callable
from typing import Any

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.events import ActorLost, Event, events_of
from noprop_dist.simulation.actor import Actor, Lost
from noprop_dist.simulation.cluster import Cluster
from noprop_dist.simulation.world import Process


class SimulatedActors:
    """The `Actors` of one coordinator.

    Args:
        cluster: that they are on.
        process: the coordinator's.
        make_work: what an actor of a slot does.
        members: processes of a block worker.
    """

    def __init__(self, cluster: Cluster, process: Process, make_work: Callable[[c.Slot], Any], members: int) -> None:
        self.cluster, self.process = cluster, process
        self._make_work, self._members = make_work, members
        self.handles: dict[c.Incarnation, Actor] = {}
        self._calls: dict[int, c.CallActor] = {}
        self._arrived: list[tuple[int, Any]] = []
        self._waits = False
        self._thread: Any = None
        process.at_death.append(self._owner_died)

    def start(self, command: c.StartActor) -> None:
        self.process.point()
        slot = command.process.slot
        members = self._members if slot.role == "block worker" else 1
        actor = Actor(self.cluster, command, self, self._make_work(slot), members)
        self.handles[command.process] = actor
        self.cluster.ask_room(actor)

    def call(self, command: c.CallActor) -> None:
        self.process.point()
        actor = self.handles[command.process]
        self._calls[command.call] = command
        if actor.lost:
            self._tell(command.call, Lost("it is gone"), self.cluster.world.luck.uniform(0.0, 0.5))
        elif actor.process.alive:
            actor.call(command)  # one that is dead is told of later, with this call

    def kill(self, process: c.Incarnation) -> None:
        self.process.point()
        self._calls = {number: call for number, call in self._calls.items() if call.process != process}
        self.handles.pop(process).end()

    def events(self, timeout_seconds: float) -> list[Event]:
        world = self.cluster.world
        if self.cluster.pace.turn > 0.0:
            # A turn of the loop takes time: several things may come meanwhile.
            world.sleep(world.luck.random() * self.cluster.pace.turn)
        if not self._arrived:
            self._waits, self._thread = True, world.current
            self._thread.wait(timeout_seconds * world.luck.uniform(1.0, 8.0))
            self._waits = False
        self.process.point()
        arrived, self._arrived = dict(self._arrived), []
        here = [number for number in sorted(arrived) if number in self._calls]
        return [event for number in here for event in self._events(number, arrived[number])]

    def _events(self, number: int, answer: Any) -> list[Event]:
        call = self._calls.pop(number)
        if isinstance(answer, Lost):
            return [ActorLost(call.process, answer.cause, answer.constructor_raised, answer.reason)]
        return list(events_of(number, answer))

    def answered(self, actor: Actor, number: int, answer: Any) -> None:
        """An actor has done a call; its reply is on its way."""
        luck = self.cluster.world.luck.random()
        delay = 0.0 if luck < 0.8 else self.cluster.pace.reply * (luck - 0.8) * 5
        self._tell(number, answer, delay + self.cluster.network_delay, actor)

    def lose(self, actor: Actor, lost: Lost, told: float) -> None:
        """Every call under way of an actor gets the loss in place of a reply, at one moment; what has come stays."""

        def tell() -> None:
            actor.lost = True
            here = {number for number, _ in self._arrived}
            for number, call in self._calls.items():
                if call.process == actor.incarnation and number not in here:
                    self._arrived.append((number, lost))
            self._wake()

        self.cluster.world.at(told, tell)

    def _tell(self, number: int, answer: Any, delay: float, actor: Actor | None = None) -> None:
        if delay <= 0.0:
            self._arrived.append((number, answer))
            self._wake()
            return

        def arrive() -> None:
            if actor is not None and not actor.process.alive and self.cluster.world.luck.random() < 0.5:
                return  # it lay on the machine that is gone
            if all(number != other for other, _ in self._arrived):
                self._arrived.append((number, answer))
                self._wake()

        self.cluster.world.at(delay, arrive)

    def _wake(self) -> None:
        if self._waits and self.process.alive:
            self._waits = False
            self._thread.wake()

    def _owner_died(self) -> None:
        """Ray ends the actors of an owner that is gone, after a while."""
        world = self.cluster.world
        for actor in self.handles.values():
            world.at(world.luck.uniform(0.05, 4.0), actor.end)

    def close(self) -> None:
        if not self.process.alive:
            return
        for actor in self.handles.values():
            actor.end()
        self.handles.clear()
        self._calls.clear()
