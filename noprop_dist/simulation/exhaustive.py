"""Kill each process of a short run at every moment of it: as many runs as there are pairs of a victim and a moment."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from noprop_dist.simulation.fault_kinds.processes import COORDINATOR_KILLED
from noprop_dist.simulation.faults import DRIVER, name_of
from noprop_dist.simulation.scenario import LEARNED, PATIENCES, Fault, Scenario
from noprop_dist.simulation.simulation import Simulation

FIRST, SECOND = "coordinator 1", "coordinator 2"


@dataclass(frozen=True)
class Short:
    """One short run, each of whose moments is tried.

    Attributes:
        blocks: T.
        rounds: of each stage.
        learned: whether W_embed is learned.
        store: where it is stored.
    """

    blocks: int = 2
    rounds: int = 6
    learned: bool = False
    store: Literal["disk", "bucket"] = "disk"

    @property
    def name(self) -> str:
        return f"{'learned' if self.learned else 'fixed'} W_embed, {self.store}"

    def scenario(self) -> Scenario:
        """The run, undisturbed: two snapshots of each stage, and an evaluation of each checkpoint."""
        steps = 2 * self.rounds
        settings = (
            *(f"blocks.count={self.blocks}", f"training.max_steps={steps}", *PATIENCES),
            LEARNED.replace("4", "2") if self.learned else "embedding={kind: onehot}",
            *(f"checkpoint.every_steps={steps // 2}", f"checkpoint.snapshot_every_steps={steps // 2}"),
            *("engine.max_failures=-1", "evaluation.samples=10"),
            *("engine.workers=2", "engine.round_steps=2", "engine.prefetch=1"),
        )
        return Scenario(0, settings, store=self.store)


SHORT = (Short(), Short(store="bucket"), Short(learned=True), Short(learned=True, store="bucket"))


def every_death(short: Short) -> Iterator[Scenario]:
    """The undisturbed run, and then one for each process or machine and each moment of it.

    Actors, nodes and the driver are killed just before each event at which they are there. A coordinator dies at each
    of its calls and storage operations; so does the one that follows a coordinator that died halfway.
    """
    calm = short.scenario()
    yield calm
    events, points = _moments(calm)
    for turn, victims in events.items():
        for victim in victims:
            yield calm.with_faults([Fault(_kind(victim), 0.0, 0, turn, victim)])
    for point in range(1, points + 1):
        yield calm.with_faults([_death(FIRST, point)])
    halfway = _death(FIRST, points // 2)
    _, points = _moments(calm.with_faults([halfway]))
    for point in range(1, points + 1):
        yield calm.with_faults([halfway, _death(SECOND, point)])


def _death(coordinator: str, point: int) -> Fault:
    return Fault(COORDINATOR_KILLED, 0.0, 0, victim=coordinator, point=point)


def _kind(victim: str) -> str:
    """The kind of fault that kills a victim."""
    if victim == DRIVER:
        return "driver killed"
    return "node killed" if victim.startswith("node") else f"{victim.rstrip(' 0123456789')} killed"


def _moments(scenario: Scenario) -> tuple[dict[int, list[str]], int]:
    """Who is there just before each event of a run, and how many points its last coordinator passed."""
    simulation, events = Simulation(scenario), dict[int, list[str]]()
    world = simulation.world

    def look() -> None:
        events[world.turns] = _victims(simulation)
        world.before_turn[world.turns + 1] = [look]

    world.before_turn[1] = [look]
    try:
        simulation.run()
    finally:
        world.close()
    assert simulation.coordinator is not None
    return events, simulation.coordinator.process.points


def _victims(simulation: Simulation) -> list[str]:
    """The names of all that may be killed now."""
    actors = [name_of(each) for each in simulation.cluster.actors if each.members]
    nodes = [node.name for node in simulation.cluster.nodes.values() if node.alive]
    driver = simulation.driver
    return [*actors, *nodes, *([DRIVER] if driver is not None and driver.result is None else ())]
