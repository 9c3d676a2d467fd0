"""Merges that are interrupted: at every one of their storage operations by the end of their process or of the disk."""

from collections.abc import Iterator
from typing import Literal

from noprop_dist.errors import UserError
from noprop_dist.simulation.machine import SimulatedMachine
from noprop_dist.simulation.scenario import Scenario, plan_of
from noprop_dist.simulation.simulation import Simulation
from noprop_dist.simulation.stand_ins import undisturbed
from noprop_dist.simulation.storage import SimulatedStore
from noprop_dist.simulation.world import Process, World
from noprop_dist.storage.merge import merge_runs
from noprop_dist.storage.run_directory import RunDirectory

PARTS = ("blocks.only=[1,2]", "blocks.only=[3]")
Ending = Literal["the process dies", "the disk is full"]


class InterruptedMerges:
    """Two runs, each of which trained some of the blocks, and merges of them.

    Args:
        settings: of the whole network, of three blocks.
        store: where the merged run is to lie.
    """

    def __init__(self, settings: tuple[str, ...], store: Literal["disk", "bucket"]) -> None:
        self._store = store
        self._plan = plan_of(settings)
        self._parts = [self._trained((*settings, part)) for part in PARTS]

    def _trained(self, settings: tuple[str, ...]) -> RunDirectory:
        simulation = Simulation(Scenario(0, settings))
        outcome = simulation.run()
        assert not outcome.violations, outcome.violations
        return RunDirectory(simulation.storage.undisturbed())

    def at_every_point(self, ending: Ending, every: int = 1) -> Iterator[tuple[int, str | None]]:
        """Interrupt a merge at one point after the other, and repeat it.

        Yields:
            The point, and what was wrong, if anything was.
        """
        point = 1
        while (wrong := self._once(point, ending)) != "came to its end":
            yield point, wrong
            point += every

    def _once(self, point: int, ending: Ending) -> str | None:
        world = World(point)
        storage = SimulatedStore(world, self._store)
        first = Process(world, "merge", "head")
        if ending == "the process dies":
            first.dies_at = point
        else:
            storage.full_from_point = point
        self._merge(world, storage, first)
        if first.points < point:
            return "came to its end"
        storage.full_from_point = None
        storage.empty()
        again = Process(world, "merge again", "head")
        self._merge(world, storage, again)
        was_whole = again.error is not None and "already holds a run" in str(again.error)
        if again.error is not None and not was_whole:
            return f"the merge that was repeated: {again.error}"
        return self._difference(storage)

    def _merge(self, world: World, storage: SimulatedStore, process: Process) -> None:
        ended: list[bool] = []
        process.at_death.append(lambda: ended.append(True))

        def merge() -> None:
            out = RunDirectory(storage.of(process, SimulatedMachine(process)))
            try:
                merge_runs(out, self._parts)
            except (UserError, OSError) as error:
                process.error = error
            ended.append(True)

        process.start(merge)
        world.run(lambda: bool(ended), world.now + 100_000)

    def _difference(self, storage: SimulatedStore) -> str | None:
        out = RunDirectory(storage.undisturbed())
        total = self._plan.total_steps
        found = {stage: snapshot.fingerprint() for stage, snapshot in out.checkpoints.load_all(total).items()}
        if found != undisturbed(self._plan, on_gpu=False).fingerprints(total):
            return "other bits"
        return None
