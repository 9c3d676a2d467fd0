"""What happens to actors: workers and the evaluator."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from noprop_dist.engines.core.actor_pool import MAIN_LANE
from noprop_dist.engines.core.commands import EVALUATOR
from noprop_dist.simulation.actor import Actor
from noprop_dist.simulation.fault_kinds.kind import NOTHING, Kind
from noprop_dist.stages import block

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation


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


def _stick_lane(simulation: "Simulation", luck: random.Random) -> float:
    """A round of one lane never ends; the process answers pings, and its other lanes go on."""
    actors = _actors(simulation, "block worker", "classifier worker")
    if not actors:
        return NOTHING
    actor = luck.choice(actors)
    actor.stuck.add(luck.choice([*actor.lanes, MAIN_LANE]))
    return 0.0


def _out_of_memory(simulation: "Simulation", luck: random.Random) -> float:
    actors = _actors(simulation, "block worker", "classifier worker")
    if not actors:
        return NOTHING
    luck.choice(actors).raises = "OutOfMemoryError('made to fail')"
    return 0.0


def _broken_constructor(simulation: "Simulation", _: random.Random) -> float:
    """The evaluator cannot be started, and there will be no other."""
    simulation.cluster.broken_constructors[EVALUATOR] = True
    return 0.0


def _poison(simulation: "Simulation", luck: random.Random) -> float:
    """One block's loss is not finite from some step on, until the run is resumed."""
    simulation.poisoned[block(luck.randint(1, simulation.plan.config.blocks.count))] = luck.randrange(
        simulation.plan.total_steps
    )
    return 0.0


KINDS = (
    Kind("block worker killed", 6, _kill_actor("block worker")),
    Kind("classifier worker killed", 2, _kill_actor("classifier worker")),
    Kind("evaluator killed", 2, _kill_actor("evaluator")),
    Kind("actor stopped (SIGSTOP)", 2, _hang_actor),
    Kind("actor stopped for a while", 2, _pause_actor),
    Kind("one lane stuck", 1, _stick_lane),
    Kind("actor slow", 1, _slow_actor),
    Kind("out of memory in a worker", 1, _out_of_memory),
    Kind("evaluator cannot start", 0.1, _broken_constructor),
    Kind("NaN in one block", 0.3, _poison),
)
