"""What happens to the machines of a cluster, and to the network between them."""

import random
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from noprop_dist.simulation.cluster import Node
from noprop_dist.simulation.fault_kinds.kind import NOTHING, Kind

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation


def _alive(simulation: "Simulation") -> list[Node]:
    return [node for node in simulation.cluster.nodes.values() if node.alive]


def return_later(simulation: "Simulation", node: Node, seconds: float) -> None:
    """A machine of the same size comes in place of one that is gone, under another name."""
    name = f"node-{len(simulation.cluster.nodes) + 1}"
    simulation.world.at(seconds, lambda: simulation.cluster.add(Node(name, node.cpus, node.gpus)))


def _lose_node(least: float, most: float) -> Callable[["Simulation", random.Random], float]:
    """Its processes go on for so many seconds; another machine may come before this one is missed."""

    def lose(simulation: "Simulation", luck: random.Random) -> float:
        nodes = _alive(simulation)
        if not nodes:
            return NOTHING
        node, seconds = luck.choice(nodes), luck.uniform(1, 40)
        simulation.cluster.lose_node(node, least if least == most else luck.uniform(least, most))
        return_later(simulation, node, seconds)
        return seconds

    return lose


def _drain_node(simulation: "Simulation", luck: random.Random) -> float:
    """The cluster says that a machine leaves; at once, some seconds later or never it is gone; another one comes."""
    nodes = [node for node in _alive(simulation) if not node.leaving]
    if not nodes:
        return NOTHING
    node, notice, absence = luck.choice(nodes), luck.choice([0.3, luck.uniform(0.5, 30)]), luck.uniform(1, 40)
    simulation.cluster.drain(node)
    if luck.random() < 0.8:
        simulation.world.at(notice, lambda: simulation.cluster.lose_node(node))
    return_later(simulation, node, notice + absence)
    return notice + absence


def _spare_node(simulation: "Simulation", luck: random.Random) -> float:
    """The cluster says that a machine leaves, and then that it stays."""
    nodes = [node for node in _alive(simulation) if not node.leaving]
    if not nodes:
        return NOTHING
    node, seconds = luck.choice(nodes), luck.uniform(0.5, 20)
    simulation.cluster.drain(node)

    def stays() -> None:
        if not node.alive:
            return_later(simulation, node, 0.0)
        node.leaving = False
        simulation.cluster.fill()

    simulation.world.at(seconds, stays)
    return seconds


def _add_node(simulation: "Simulation", luck: random.Random) -> float:
    name = f"node-{len(simulation.cluster.nodes) + 1}"
    simulation.cluster.add(Node(name, luck.choice([1, 2, 4])))
    return 0.0


def _other_run(simulation: "Simulation", luck: random.Random) -> float:
    """Another run takes what room is free on a machine, and gives it back later."""
    nodes = _alive(simulation)
    if not nodes:
        return NOTHING
    node, seconds = luck.choice(nodes), luck.uniform(5, 60)
    taken = node.cpus - node.cpus_used
    node.cpus_used += taken

    def gives_back() -> None:
        node.cpus_used -= taken
        simulation.cluster.fill()

    simulation.world.at(seconds, gives_back)
    return seconds


def _slow_network(simulation: "Simulation", luck: random.Random) -> float:
    """Replies take longer; some longer than anybody waits."""
    seconds = luck.uniform(1, 20)
    simulation.cluster.network_delay = luck.choice([0.2, 2.0, 12.0])
    simulation.world.at(seconds, lambda: setattr(simulation.cluster, "network_delay", 0.0))
    return seconds


KINDS = (
    Kind("node killed", 2, _lose_node(0.0, 0.0)),
    Kind("raylet killed", 1, _lose_node(0.1, 1.1)),
    Kind("raylet stopped", 1, _lose_node(inf, inf)),
    Kind("node drained", 2, _drain_node),
    Kind("node drained, then kept", 0.5, _spare_node),
    Kind("node added", 1, _add_node),
    Kind("no room: another run", 1, _other_run),
    Kind("network slow", 1, _slow_network),
)
