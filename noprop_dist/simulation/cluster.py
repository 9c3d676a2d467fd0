"""Machines: which there are, what of them is taken, what the cluster says of them, and how they go.

What happens to a machine and what Ray knows of it are two things, apart for seconds or for ever: `docs/explanation/
what-ray-does.md` has what real Ray was seen to do.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.placement import Resources, WorkerPlace
from noprop_dist.simulation.world import World

if TYPE_CHECKING:
    from noprop_dist.simulation.actor import Actor

EPSILON = 1e-6
IDLE_SECONDS = 30.0
"""After which an autoscaler takes a machine away."""


@dataclass
class Node:
    """One machine of the cluster.

    Attributes:
        name: Ray's identifier of it.
        cpus: its cores.
        gpus: its GPUs.
        processor: what its processes compute with.
        alive: whether its raylet works; processes on it may outlive that.
        known: whether the cluster still counts it; a dead node is counted for some seconds more.
        leaving: whether the cluster says that it is about to go.
        idle_since: the turn of the world since which nothing runs on it.
        cpus_used: by actors, and by other runs.
        gpus_used: likewise.
    """

    name: str
    cpus: float
    gpus: float = 0.0
    processor: str = "made up"
    alive: bool = True
    known: bool = True
    leaving: bool = False
    idle_since: int = 0
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


class Cluster:
    """All nodes, and the actors that run or wait for room.

    Args:
        world: that it is in.
        nodes: at the beginning.
        pace: how long things take.
        most_nodes: that an autoscaler adds to, for actors that have no room; 0 without one.
    """

    def __init__(self, world: World, nodes: list[Node], pace: Pace, most_nodes: int = 0) -> None:
        self.world, self.pace = world, pace
        self._most_nodes, self._nodes_coming = most_nodes, 0
        self.nodes = {node.name: node for node in nodes}
        self.actors: list[Actor] = []
        self.waiting: list[Actor] = []
        self.network_delay = 0.0
        self.evaluation_seconds = 0.05
        self.broken_constructors: dict[c.Slot, bool] = {}

    # What the coordinator sees

    def resources(self) -> Resources:
        known = [node for node in self.nodes.values() if node.known and not node.leaving]
        cpus = [node.cpus for node in known]
        gpus, grows = sum(node.gpus for node in known), self._most_nodes > 0
        return Resources(sum(cpus), gpus, max(cpus, default=0.0), grows=grows)

    def leaving(self) -> frozenset[str]:
        return frozenset(node.name for node in self.nodes.values() if node.known and node.leaving)

    # Room

    def ask_room(self, actor: "Actor") -> None:
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
        self._grow()

    def _grow(self) -> None:
        """The autoscaler adds a machine for each process that waits for room."""
        wanted = sum(actor.size for actor in self.waiting)
        there = sum(node.known for node in self.nodes.values()) + self._nodes_coming
        for _ in range(min(wanted - self._nodes_coming, self._most_nodes - there)):
            self._nodes_coming += 1
            self.world.at(self.world.luck.uniform(5, 25), self._comes)

    def _comes(self) -> None:
        self._nodes_coming -= 1
        self.add(Node(f"node-{len(self.nodes) + 1}", 1.0))

    def _goes_if_idle(self, node: Node, since: int) -> None:
        """The autoscaler takes a machine away on which nothing has run for a while."""
        if node.idle_since == since and node.alive and not self._is_used(node):
            self.drain(node)

    def _is_used(self, node: Node) -> bool:
        return node.cpus_used > EPSILON or any(node in actor.members for actor in self.actors)

    def _members_for(self, actor: "Actor") -> list[Node] | None:
        chosen: list[Node] = []
        for _ in range(actor.size):
            nodes = [
                node for node in self.nodes.values() if node.name != actor.avoided_node and node.has_room(actor.place)
            ]
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

    def gone(self, actor: "Actor") -> None:
        if actor in self.actors:
            self.actors.remove(actor)
        for node in actor.members:
            self._let_go(node)
            if self._most_nodes and not self._is_used(node):
                node.idle_since = self.world.turns
                self.world.at(IDLE_SECONDS, partial(self._goes_if_idle, node, node.idle_since))
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
        if node.alive and node.leaving and not self._is_used(node):
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
