"""Lets faults happen: finds the kind of each, its draws and its victim."""

import random
from typing import TYPE_CHECKING, Any

from noprop_dist.simulation.actor import Actor
from noprop_dist.simulation.cluster import Node
from noprop_dist.simulation.fault_kinds import actors, machines, processes, stores, strangers
from noprop_dist.simulation.fault_kinds.kind import NOTHING
from noprop_dist.simulation.fault_kinds.machines import return_later
from noprop_dist.simulation.fault_kinds.processes import COORDINATOR_KILLED
from noprop_dist.simulation.scenario import Fault
from noprop_dist.simulation.world import Process

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation

DRIVER = "driver"
NODE_ABSENT_SECONDS = 20.0
"""From the end of a node that is named to the coming of another."""


FAULT = "FAULT "
"""How the line of a fault begins."""


class Draws(random.Random):
    """The draws of one fault.

    Attributes:
        victim: name of what was chosen to be hit, if anything was.
    """

    victim = ""

    def choice(self, seq: Any) -> Any:
        """As the base class has it."""
        chosen = super().choice(seq)
        if isinstance(chosen, Actor | Node) or (isinstance(chosen, str) and "." in chosen):
            self.victim = name_of(chosen)
        return chosen


def name_of(victim: Actor | Node | str) -> str:
    """The name of what a fault may hit: an actor, a machine or a file."""
    if isinstance(victim, Actor):
        return victim.incarnation.slot.name
    return victim.name if isinstance(victim, Node) else victim


def _kill_named(simulation: "Simulation", victim: str) -> float:
    """Kill the actor, the node or the driver of this name."""
    driver, node = simulation.driver, simulation.cluster.nodes.get(victim)
    named = [each for each in simulation.cluster.actors if each.members and name_of(each) == victim]
    if victim == DRIVER and driver is not None and driver.process.alive and driver.result is None:
        driver.process.die()
    elif node is not None and node.alive:
        simulation.cluster.lose_node(node)
        return_later(simulation, node, NODE_ABSENT_SECONDS)
    elif named:
        named[-1].die("its process was killed", simulation.cluster.pace.told / 2)
    else:
        return NOTHING
    return 0.0


def strike(simulation: "Simulation", fault: Fault) -> None:
    """Let a fault happen now."""
    luck = Draws(fault.pick)
    lasts = _kill_named(simulation, fault.victim) if fault.victim else KINDS[fault.kind].strike(simulation, luck)
    victim = (fault.victim or luck.victim) if lasts >= 0 else "nothing to hit"
    simulation.say(f"{FAULT}{fault.kind}{': ' if victim else ''}{victim}")
    if lasts >= 0:
        simulation.outcome.struck[fault.kind] += 1
        simulation.kind_from = max(simulation.kind_from, simulation.world.now + lasts)


def struck_at_point(simulation: "Simulation", coordinator: Process) -> None:
    """A coordinator died; at the point that was named, or before."""
    if coordinator.points == coordinator.dies_at:
        simulation.say(f"{FAULT}{COORDINATOR_KILLED}: {coordinator.name} at its point {coordinator.points}")
        simulation.outcome.struck[COORDINATOR_KILLED] += 1
        simulation.kind_from = max(simulation.kind_from, simulation.world.now)


KINDS = {
    kind.name: kind for kind in (*actors.KINDS, *machines.KINDS, *processes.KINDS, *stores.KINDS, *strangers.KINDS)
}
WEIGHTS = {kind.name: kind.weight for kind in KINDS.values()}
