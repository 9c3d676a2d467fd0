"""The kinds of fault, each with how often it is drawn, what it does, and how long it lasts."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noprop_dist.engines.core.commands import EVALUATOR
from noprop_dist.simulation.cluster import Actor, Node
from noprop_dist.simulation.scenario import Fault
from noprop_dist.simulation.storage import BROKEN, FULL, READ_ONLY, flip
from noprop_dist.simulation.world import Process
from noprop_dist.stages import block

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation

NOTHING = -1.0
"""Of a fault that found nothing to hit."""
DRIVER = "driver"
COORDINATOR_KILLED = "coordinator killed"
NODE_ABSENT_SECONDS = 20.0
"""From the end of a node that is named to the coming of another."""


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: for people and schedules.
        weight: how often it is drawn, relative to the others.
        strike: does it; returns for how many seconds the world is unkind, or `NOTHING`.
    """

    name: str
    weight: float
    strike: Callable[["Simulation", random.Random], float]


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
    actors = [each for each in simulation.cluster.actors if each.members and name_of(each) == victim]
    if victim == DRIVER and driver is not None and driver.process.alive and driver.result is None:
        driver.process.die()
    elif node is not None and node.alive:
        simulation.cluster.lose_node(node)
        _return_later(simulation, node, NODE_ABSENT_SECONDS)
    elif actors:
        actors[0].die("its process was killed", simulation.cluster.pace.told / 2)
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


# Actors


def _actors(simulation: "Simulation", *roles: str) -> list[Actor]:
    return [each for each in simulation.cluster.actors if each.members and each.incarnation.slot.role in roles]


def _kill_actor(*roles: str) -> Callable[["Simulation", random.Random], float]:
    def kill(simulation: "Simulation", luck: random.Random) -> float:
        actors = _actors(simulation, *roles)
        if not actors:
            return NOTHING
        luck.choice(actors).die("its process was killed", luck.uniform(0.02, simulation.cluster.pace.told))
        return 0.0

    return kill


def _hang_actor(simulation: "Simulation", luck: random.Random) -> float:
    actors = _actors(simulation, "block worker", "classifier worker", "evaluator")
    if not actors:
        return NOTHING
    luck.choice(actors).process.pause()
    return 0.0


def _pause_actor(simulation: "Simulation", luck: random.Random) -> float:
    actors = _actors(simulation, "block worker", "classifier worker", "evaluator")
    if not actors:
        return NOTHING
    process, seconds = luck.choice(actors).process, luck.uniform(0.5, 60)
    process.pause()
    simulation.world.at(seconds, process.go_on)
    return seconds


def _slow_actor(simulation: "Simulation", luck: random.Random) -> float:
    actors = _actors(simulation, "block worker", "classifier worker", "evaluator")
    if not actors:
        return NOTHING
    actor, seconds = luck.choice(actors), luck.uniform(1, 40)
    actor.slowness = luck.choice([3.0, 10.0, 40.0])
    simulation.world.at(seconds, lambda: setattr(actor, "slowness", 1.0))
    return seconds


def _out_of_memory(simulation: "Simulation", luck: random.Random) -> float:
    actors = _actors(simulation, "block worker", "classifier worker")
    if not actors:
        return NOTHING
    luck.choice(actors).raises = "OutOfMemoryError('made to fail')"
    return 0.0


def _broken_constructor(simulation: "Simulation", luck: random.Random) -> float:
    """The evaluator cannot be started, and there will be no other."""
    simulation.cluster.broken_constructors[EVALUATOR] = True
    return 0.0


def _poison(simulation: "Simulation", luck: random.Random) -> float:
    """One block's loss is not finite from some step on, until the run is resumed."""
    simulation.poisoned[block(luck.randint(1, simulation.plan.config.blocks.count))] = luck.randrange(
        simulation.plan.total_steps
    )
    return 0.0


# Machines


def _alive(simulation: "Simulation") -> list[Node]:
    return [node for node in simulation.cluster.nodes.values() if node.alive]


def _return_later(simulation: "Simulation", node: Node, seconds: float) -> None:
    """A machine of the same size comes in place of one that is gone, under another name."""
    name = f"node-{len(simulation.cluster.nodes) + 1}"
    simulation.world.at(seconds, lambda: simulation.cluster.add(Node(name, node.cpus, node.gpus)))


def _kill_node(simulation: "Simulation", luck: random.Random) -> float:
    nodes = _alive(simulation)
    if not nodes:
        return NOTHING
    node, seconds = luck.choice(nodes), luck.uniform(1, 40)
    simulation.cluster.lose_node(node)
    _return_later(simulation, node, seconds)
    return seconds


def _drain_node(simulation: "Simulation", luck: random.Random) -> float:
    """The cluster says that a machine leaves; some seconds later it is gone, and later another one comes."""
    nodes = [node for node in _alive(simulation) if not node.leaving]
    if not nodes:
        return NOTHING
    node, notice, absence = luck.choice(nodes), luck.uniform(0.5, 30), luck.uniform(1, 40)
    node.leaving = True
    simulation.world.at(notice, lambda: simulation.cluster.lose_node(node))
    _return_later(simulation, node, notice + absence)
    return notice + absence


def _spare_node(simulation: "Simulation", luck: random.Random) -> float:
    """The cluster says that a machine leaves, and then that it stays."""
    nodes = [node for node in _alive(simulation) if not node.leaving]
    if not nodes:
        return NOTHING
    node, seconds = luck.choice(nodes), luck.uniform(0.5, 20)
    node.leaving = True

    def stays() -> None:
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


# Coordinator, driver, person


def _kill_coordinator(simulation: "Simulation", luck: random.Random) -> float:
    """At one of the next of its commands and disk operations."""
    coordinator = simulation.coordinator
    if coordinator is None or not coordinator.process.alive or coordinator.result is not None:
        return NOTHING
    coordinator.process.dies_at = coordinator.process.points + luck.randint(1, 60)
    return 5.0


def _pause_coordinator(simulation: "Simulation", luck: random.Random) -> float:
    coordinator = simulation.coordinator
    if coordinator is None or not coordinator.process.alive or coordinator.result is not None:
        return NOTHING
    seconds = luck.choice([luck.uniform(1, 20), luck.uniform(20, 90)])
    coordinator.process.pause()
    simulation.world.at(seconds, coordinator.process.go_on)
    return seconds


def _kill_coordinators(simulation: "Simulation", luck: random.Random) -> float:
    """For a while each coordinator dies soon after its start, as where its machine has no memory left."""
    if _kill_coordinator(simulation, luck) == NOTHING:
        return NOTHING
    seconds = luck.uniform(5, 60)
    simulation.coordinators_die_until = simulation.world.now + seconds
    return seconds


def _lose_coordinator(simulation: "Simulation", luck: random.Random) -> float:
    """The network between driver and coordinator fails: one takes the other for dead, which lives on for a while."""
    coordinator = simulation.coordinator
    if coordinator is None or not coordinator.process.alive or coordinator.result is not None:
        return NOTHING
    coordinator.out_of_reach = luck.uniform(0, 60)
    return 90.0


def _kill_driver(simulation: "Simulation", luck: random.Random) -> float:
    driver = simulation.driver
    if driver is None or not driver.process.alive or driver.result is not None:
        return NOTHING
    driver.process.die()
    return 0.0


def _stop(simulation: "Simulation", luck: random.Random) -> float:
    driver = simulation.driver
    if driver is None or not driver.process.alive or driver.result is not None:
        return NOTHING
    driver.stop = True
    return 0.0


# The store


def _disk_full(simulation: "Simulation", luck: random.Random) -> float:
    seconds, storage = luck.uniform(0.5, 40), simulation.storage
    storage.fill(luck.choice([0, luck.randrange(400)]))
    simulation.world.at(seconds, storage.empty)
    return seconds


def _store_fails(simulation: "Simulation", luck: random.Random) -> float:
    seconds, storage = luck.uniform(0.5, 40), simulation.storage
    storage.fails = luck.choice([FULL, BROKEN, READ_ONLY])
    simulation.world.at(seconds, lambda: setattr(storage, "fails", None))
    return seconds


def _store_hangs(simulation: "Simulation", luck: random.Random) -> float:
    seconds, storage = luck.choice([luck.uniform(0.5, 30), luck.uniform(30, 200)]), simulation.storage
    storage.hangs = True
    simulation.world.at(seconds, lambda: setattr(storage, "hangs", False))
    return seconds


def _store_slow(simulation: "Simulation", luck: random.Random) -> float:
    seconds, storage = luck.uniform(1, 60), simulation.storage
    storage.slowness = luck.choice([10.0, 100.0, 1000.0 if storage.kind == "disk" else 30.0])
    simulation.world.at(seconds, lambda: setattr(storage, "slowness", 1.0))
    return seconds


def _stale_listings(simulation: "Simulation", luck: random.Random) -> float:
    if simulation.storage.kind == "disk":
        return NOTHING
    seconds, bucket = luck.uniform(1, 60), simulation.storage.bucket
    late = luck.uniform(0.5, 20)
    bucket.stale_seconds = late
    simulation.world.at(seconds, lambda: setattr(bucket, "stale_seconds", 0.0))
    return seconds


def _lose_power(simulation: "Simulation", luck: random.Random) -> float:
    """The machine of driver, coordinator and disk crashes: what was written last may be torn or gone."""
    driver, storage = simulation.driver, simulation.storage
    if storage.kind != "disk" or driver is None or driver.result is not None or not storage.holds_run:
        return NOTHING
    if driver.coordinator is not None:
        driver.coordinator.process.die()
    driver.process.die()
    storage.disk.lose_power(luck, simulation.world.now - luck.uniform(0.1, 30))
    return 0.0


def _damage(pattern: str, how: str) -> Callable[["Simulation", random.Random], float]:
    """Damage the newest file of a kind; then kill the coordinator, so that it is read."""

    def damage(simulation: "Simulation", luck: random.Random) -> float:
        store, coordinator = simulation.storage.undisturbed(), simulation.coordinator
        if coordinator is None or not coordinator.process.alive or coordinator.run is None:
            return NOTHING
        if simulation.storage.disk.capacity is not None:
            return NOTHING
        folders = [f"checkpoints/{name}" for name in store.names("checkpoints")]
        found = [f"{folder}/{name}" for folder in folders for name in store.names(folder) if name.endswith(pattern)]
        files = ["metrics.jsonl"] if pattern == "metrics.jsonl" and store.exists("metrics.jsonl") else found[-12:]
        if not files:
            return NOTHING
        file = luck.choice(files)
        simulation.damaged(file)
        content = store.read(file)
        if how == "doubled":
            lines = content.splitlines(keepends=True)
            content += b"".join(lines[-luck.randint(1, 3) :])
        elif how == "cut":
            content = content[: luck.randrange(len(content) + 1)]
        else:
            content = flip(content, luck)
        store.write(file, content)
        coordinator.process.die()
        return 0.0

    return damage


KINDS = {
    kind.name: kind
    for kind in (
        Kind("block worker killed", 6, _kill_actor("block worker")),
        Kind("classifier worker killed", 2, _kill_actor("classifier worker")),
        Kind("evaluator killed", 2, _kill_actor("evaluator")),
        Kind("actor stopped (SIGSTOP)", 2, _hang_actor),
        Kind("actor stopped for a while", 2, _pause_actor),
        Kind("actor slow", 1, _slow_actor),
        Kind("out of memory in a worker", 1, _out_of_memory),
        Kind("evaluator cannot start", 0.1, _broken_constructor),
        Kind("NaN in one block", 0.3, _poison),
        Kind("node killed", 2, _kill_node),
        Kind("node drained", 2, _drain_node),
        Kind("node drained, then kept", 0.5, _spare_node),
        Kind("node added", 1, _add_node),
        Kind("no room: another run", 1, _other_run),
        Kind("network slow", 1, _slow_network),
        Kind(COORDINATOR_KILLED, 4, _kill_coordinator),
        Kind("coordinator stopped for a while", 1, _pause_coordinator),
        Kind("coordinators killed for a while", 0.5, _kill_coordinators),
        Kind("coordinator out of reach", 0.5, _lose_coordinator),
        Kind("driver killed", 2, _kill_driver),
        Kind("stop asked for", 1, _stop),
        Kind("disk full", 1, _disk_full),
        Kind("store fails", 1, _store_fails),
        Kind("store hangs", 0.7, _store_hangs),
        Kind("store slow", 1, _store_slow),
        Kind("listings stale", 1, _stale_listings),
        Kind("power lost", 1, _lose_power),
        Kind("bit flipped in a snapshot", 1, _damage(".safetensors", "flip")),
        Kind("entry damaged", 1, _damage(".json", "flip")),
        Kind("manifest truncated", 0.7, _damage("manifest.json", "cut")),
        Kind("metrics.jsonl: lines doubled", 0.5, _damage("metrics.jsonl", "doubled")),
        Kind("metrics.jsonl: cut off", 0.5, _damage("metrics.jsonl", "cut")),
        Kind("metrics.jsonl: bit flipped", 0.5, _damage("metrics.jsonl", "flip")),
    )
}
WEIGHTS = {kind.name: kind.weight for kind in KINDS.values()}
