"""What happens to the coordinator and its driver, and what the person asks for."""

import random
from typing import TYPE_CHECKING, TypeVar

from noprop_dist.simulation.fault_kinds.kind import NOTHING, Kind
from noprop_dist.simulation.processes import Coordinator, Driver

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation

COORDINATOR_KILLED = "coordinator killed"
AtWork = TypeVar("AtWork", Coordinator, Driver)


def at_work(one: AtWork | None) -> AtWork | None:
    """The coordinator or driver, if its process lives and has not come to its end."""
    return one if one is not None and one.process.alive and one.result is None else None


def _kill_coordinator(simulation: "Simulation", luck: random.Random) -> float:
    """At one of the next of its commands and disk operations."""
    coordinator = at_work(simulation.coordinator)
    if coordinator is None:
        return NOTHING
    coordinator.process.dies_at = coordinator.process.points + luck.randint(1, 60)
    return 5.0


def _kill_coordinators(simulation: "Simulation", luck: random.Random) -> float:
    """For a while each coordinator dies soon after its start, as where its machine has no memory left."""
    if _kill_coordinator(simulation, luck) == NOTHING:
        return NOTHING
    seconds = luck.uniform(5, 60)
    simulation.coordinators_die_until = simulation.world.now + seconds
    return seconds


def _pause_coordinator(simulation: "Simulation", luck: random.Random) -> float:
    coordinator = at_work(simulation.coordinator)
    if coordinator is None:
        return NOTHING
    seconds = luck.choice([luck.uniform(1, 20), luck.uniform(20, 90)])
    coordinator.process.pause()
    simulation.world.at(seconds, coordinator.process.go_on)
    return seconds


def _lose_coordinator(simulation: "Simulation", luck: random.Random) -> float:
    """The network between driver and coordinator fails: one takes the other for dead, which lives on for a while."""
    coordinator = at_work(simulation.coordinator)
    if coordinator is None:
        return NOTHING
    coordinator.out_of_reach = luck.uniform(0, 60)
    return 90.0


def _drain_coordinator(simulation: "Simulation", luck: random.Random) -> float:
    """The cluster says that the coordinator's machine leaves, and it goes at the end of that time."""
    coordinator = at_work(simulation.coordinator)
    if coordinator is None:
        return NOTHING
    notice = luck.choice([0.3, luck.uniform(5, 60)])
    coordinator.node_leaves = True
    simulation.world.at(notice, coordinator.process.die)
    return notice


def _kill_driver(simulation: "Simulation", _: random.Random) -> float:
    driver = at_work(simulation.driver)
    if driver is None:
        return NOTHING
    driver.process.die()
    return 0.0


def _stop(simulation: "Simulation", _: random.Random) -> float:
    driver = at_work(simulation.driver)
    if driver is None:
        return NOTHING
    driver.stop = True
    return 0.0


KINDS = (
    Kind(COORDINATOR_KILLED, 4, _kill_coordinator),
    Kind("coordinators killed for a while", 0.5, _kill_coordinators),
    Kind("coordinator stopped for a while", 1, _pause_coordinator),
    Kind("coordinator out of reach", 0.5, _lose_coordinator),
    Kind("coordinator drained", 1, _drain_coordinator),
    Kind("driver killed", 2, _kill_driver),
    Kind("stop asked for", 1, _stop),
)
