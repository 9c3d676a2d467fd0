"""Ray's part: nodes, what actors ask of them, actors that start, work, stop working and die, and what is heard of it.

Every delay is drawn. What Ray promises is kept: calls of one lane are done in the order in which they were made, and
an actor that is gone is told of once for each call under way. What it does not promise is not kept: a reply may be
seen after later ones, and those of a process that dies may be lost with it.

What happens to a process and what Ray knows of it are two things, apart for seconds or for ever: `docs/explanation/
what-ray-does.md` has what real Ray was seen to do.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.actor_pool import CONTROL_LANE
from noprop_dist.engines.core.events import ActorLost, Event, events_of
from noprop_dist.engines.core.placement import Resources, WorkerPlace
from noprop_dist.simulation.world import Process, World
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.messages import WorkerFacts

EPSILON = 1e-6
EXIT_SECONDS = 5.0
"""Ray asks a process to exit, and kills it if it has not done so after this long: one that is stopped cannot."""


def end(process: Process) -> None:
    """End a process as Ray does."""
    if process.paused:
        process.held_up.append(process.die)
        process.world.at(EXIT_SECONDS, process.die)
    else:
        process.die()


@dataclass
class Node:
    """One machine of the cluster.

    Attributes:
        name: Ray's identifier of it.
        cpus: its cores.
        gpus: its GPUs.
        alive: whether its raylet works; processes on it may outlive that.
        known: whether the cluster still counts it; a dead node is counted for some seconds more.
        leaving: whether the cluster says that it is about to go.
        cpus_used: by actors, and by other runs.
        gpus_used: likewise.
    """

    name: str
    cpus: float
    gpus: float = 0.0
    alive: bool = True
    known: bool = True
    leaving: bool = False
    cpus_used: float = 0.0
    gpus_used: float = 0.0

    def has_room(self, place: WorkerPlace | None) -> bool:
        if not self.alive or self.leaving:
            return False
        if place is None:
            return True
        fits = self.cpus - self.cpus_used >= place.cpus - EPSILON
        return fits and self.gpus - self.gpus_used >= place.gpus - EPSILON

    def take(self, place: WorkerPlace, sign: int = 1) -> None:
        self.cpus_used += sign * place.cpus
        self.gpus_used += sign * place.gpus


@dataclass
class Lost:
    """Takes the place of a reply."""

    cause: str
    constructor_raised: bool = False


@dataclass(frozen=True)
class Pace:
    """How long things take, in seconds.

    Attributes:
        start: of an actor's process.
        step: of a block.
        reply: most that a reply is on its way, in ordinary times.
        told: most from the death of a process to its being told.
        turn: most that a coordinator is busy between two turns of its loop.
    """

    start: float = 3.0
    step: float = 0.05
    reply: float = 0.05
    told: float = 1.0
    turn: float = 0.01


class Actor:
    """One actor: its process, and the calls that it was given.

    Args:
        cluster: that it is on.
        command: that asked for it.
        owner: who is told of it.
        work: does its work; see `Work`.
        members: processes that it consists of.

    Attributes:
        lost: whether its owner's Ray takes it for dead; its process may live on.
        raises: what its next round raises, if anything.
        stuck: lanes whose calls never end.
    """

    def __init__(
        self, cluster: "Cluster", command: c.StartActor, owner: "SimulatedActors", work: Any, members: int
    ) -> None:
        self.cluster = cluster
        self.incarnation = command.process
        self.place = command.place
        self.owner = owner
        self.work = work
        self.size = members
        self.members: list[Node] = []
        number = command.process.number
        self.process = Process(cluster.world, f"{command.process.slot.name}#{number} of {owner.process.name}")
        self.process.at_death.append(self._release)
        self.slowness = 1.0
        self.stopped = False
        self._cut: dict[str, int] = {}
        self.answered = self.lost = False
        self.raises: str | None = None
        self.stuck: set[str] = set()
        self._lanes: dict[str, deque[c.CallActor]] = {}
        self._begun: dict[str, float] = {}

    @property
    def node(self) -> str:
        return self.members[0].name if self.members else ""

    @property
    def lanes(self) -> list[str]:
        """Those that work was sent to."""
        return [lane for lane in self._lanes if lane != CONTROL_LANE]

    # Where it is

    def placed(self, members: list[Node]) -> None:
        """It has its room; its process starts."""
        self.members = members
        if self.place is not None:
            for node in members:
                node.take(self.place)
        world = self.cluster.world
        world.at(self.cluster.pace.start * world.luck.uniform(0.7, 1.5), self._started)

    def _started(self) -> None:
        if not self.process.alive:
            return
        if self.process.paused:
            self.process.held_up.append(self._started)
            return
        if self.cluster.broken_constructors and self.cluster.broken_constructors.pop(self.incarnation.slot, False):
            self.process.die()
            self.owner.lose(self, Lost("RuntimeError('made to fail')", constructor_raised=True), 0.0)
            return
        self.answered = True
        for lane in list(self._lanes):
            self._begin(lane)

    def _release(self) -> None:
        for node in self.members:
            if self.place is not None and node.alive:
                node.take(self.place, -1)
        self.cluster.gone(self)

    # What it does

    def call(self, call: c.CallActor) -> None:
        lane = self._lanes.setdefault(call.lane, deque())
        lane.append(call)
        if len(lane) == 1 and self.answered:
            self._begin(call.lane)

    def _begin(self, lane: str) -> None:
        request, world = self._lanes[lane][0].request, self.cluster.world
        self._begun[lane] = world.now
        if isinstance(request, c.Train):
            seconds = 0.0 if self.stopped else request.round.steps * self.step_seconds
        elif isinstance(request, c.Evaluate):
            self.process.start(lambda: self._evaluate(lane, request.step))
            return
        else:
            seconds = 0.002
        world.at(seconds, lambda: self._finish(lane))

    @property
    def step_seconds(self) -> float:
        return self.cluster.pace.step * self.slowness

    def _evaluate(self, lane: str, step: int) -> None:
        """Read a checkpoint; it takes as long as the store does."""
        world = self.cluster.world
        world.sleep(self.cluster.evaluation_seconds * self.slowness)
        try:
            answer = self.work.evaluate(self.process, step)
        except Exception as error:  # as Ray has it: what a method raises becomes the answer of its call
            answer = Lost(repr(error))
        self._finish(lane, answer)

    def _finish(self, lane: str, answer: Any = None) -> None:
        process = self.process
        if not process.alive or lane in self.stuck:
            return
        if process.paused:
            process.held_up.append(lambda: self._finish(lane, answer))
            return
        calls = self._lanes[lane]
        call = calls.popleft()
        if answer is None:
            answer = self._answer(call)
        if calls:
            self._begin(lane)
        if not self.lost:
            self.owner.answered(self, call.call, answer)

    def _answer(self, call: c.CallActor) -> Any:
        match call.request:
            case c.Train(key):
                return self._train(key, call.lane)
            case c.DescribeYourself():
                on_gpu = self.place is not None and self.place.gpus > 0
                return WorkerFacts("host", self.node, 1, "cuda:0" if on_gpu else "cpu")
            case c.Stop():
                return self._stop()
            case c.Ping():
                return None
        return self.work.answer(call.request)

    def _train(self, key: RoundKey, lane: str) -> Any:
        if self.raises is not None:
            cause, self.raises = self.raises, None
            return Lost(cause)
        if self.stopped:
            if lane not in self._cut:
                return None
            key = replace(key, steps=self._cut.pop(lane))
        return self.work.train(key, key.steps * self.step_seconds)

    def _stop(self) -> None:
        """Rounds under way end with the step that is under way; a group's are done to their end."""
        self.stopped = True
        for lane, calls in self._lanes.items():
            request = calls[0].request if calls else None
            if lane != CONTROL_LANE and isinstance(request, c.Train):
                steps = request.round.steps
                begun = 1 + int((self.cluster.world.now - self._begun[lane]) / self.step_seconds)
                self._cut[lane] = steps if self.size > 1 else min(begun, steps)

    # How it ends

    def die(self, cause: str, told: float) -> None:
        """Its process ends; its owner hears of it after so many seconds."""
        if self.process.alive:
            self.process.die()
            self.owner.lose(self, Lost(cause), told)

    def end(self) -> None:
        """Ray ends its process; it does not reach one whose node is cut off."""
        if all(node.alive for node in self.members[:1]):
            end(self.process)

    def lose_node(self, node: Node, outlived: float, told: float) -> None:
        """One of its nodes is gone: see `Cluster.lose_node`. A group notices at once that one of it is missing."""
        if node is not self.members[0] and self.answered:
            self.raises = "a replica is gone"
            return
        if outlived <= 0.0:
            self.process.die()
        elif outlived < inf:
            self.cluster.world.at(outlived, self.process.die)
        self.owner.lose(self, Lost("its node died"), told)


class SimulatedActors:
    """The `Actors` of one coordinator.

    Args:
        cluster: that they are on.
        process: the coordinator's.
        make_work: what an actor of a slot does.
        members: processes of a block worker.
    """

    def __init__(self, cluster: "Cluster", process: Process, make_work: Callable[[c.Slot], Any], members: int) -> None:
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
            world.sleep(
                world.luck.random() * self.cluster.pace.turn
            )  # a turn of the loop takes time: several things may come meanwhile
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
            return [ActorLost(call.process, answer.cause, answer.constructor_raised)]
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


class Cluster:
    """All nodes, and the actors that run or wait for room.

    Args:
        world: that it is in.
        nodes: at the beginning.
        pace: how long things take.
    """

    def __init__(self, world: World, nodes: list[Node], pace: Pace) -> None:
        self.world, self.pace = world, pace
        self.nodes = {node.name: node for node in nodes}
        self.actors: list[Actor] = []
        self.waiting: list[Actor] = []
        self.network_delay = 0.0
        self.evaluation_seconds = 0.05
        self.broken_constructors: dict[c.Slot, bool] = {}

    # What the coordinator sees

    def resources(self) -> Resources:
        known = [node for node in self.nodes.values() if node.known]
        cpus = [node.cpus for node in known]
        return Resources(sum(cpus), sum(node.gpus for node in known), max(cpus, default=0.0))

    def leaving(self) -> frozenset[str]:
        return frozenset(node.name for node in self.nodes.values() if node.known and node.leaving)

    # Room

    def ask_room(self, actor: Actor) -> None:
        self.actors.append(actor)
        self.waiting.append(actor)
        self.world.at(0, self.fill)

    def fill(self) -> None:
        """Give room to the actors that wait for it, in their order, on the emptiest nodes that have it."""
        left = []
        for actor in self.waiting:
            if not actor.process.alive:
                continue
            members = self._members_for(actor)
            if members is None:
                left.append(actor)
            else:
                actor.placed(members)
        self.waiting = left

    def _members_for(self, actor: Actor) -> list[Node] | None:
        chosen: list[Node] = []
        for _ in range(actor.size):
            nodes = [node for node in self.nodes.values() if node.has_room(actor.place)]
            if not nodes:
                break
            node = max(nodes, key=lambda each: (each.gpus - each.gpus_used, each.cpus - each.cpus_used))
            if actor.place is not None:
                node.take(actor.place)
            chosen.append(node)
        if actor.place is not None:
            for node in chosen:
                node.take(actor.place, -1)
        return chosen if len(chosen) == actor.size else None

    def gone(self, actor: Actor) -> None:
        if actor in self.actors:
            self.actors.remove(actor)
        for node in actor.members:
            self._let_go(node)
        self.world.at(0, self.fill)

    # What happens to machines

    def add(self, node: Node) -> None:
        self.nodes[node.name] = node
        self.fill()

    def drain(self, node: Node) -> None:
        """A machine is about to leave: it takes in nothing more, and goes once nothing is on it."""
        node.leaving = True
        self._let_go(node)

    def _let_go(self, node: Node) -> None:
        used = node.cpus_used > EPSILON or any(node in actor.members for actor in self.actors)
        if node.alive and node.leaving and not used:
            node.alive = node.known = False

    def lose_node(self, node: Node, outlived: float = 0.0, told: float | None = None) -> None:
        """A machine or its raylet is gone at once; the cluster notices some seconds later.

        Args:
            node: that is gone.
            outlived: seconds for which its processes go on and answer; inf: for ever, and nobody ends them.
            told: seconds until the cluster notices; drawn if None.
        """
        if not node.alive:
            return
        node.alive = False
        luck = self.world.luck
        told = luck.uniform(0.2, 20.0) if told is None else told
        self.world.at(told, lambda: setattr(node, "known", False))
        for actor in [each for each in self.actors if node in each.members]:
            actor.lose_node(node, outlived, told)
