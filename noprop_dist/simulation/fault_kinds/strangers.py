"""What a stranger changes between two lives of a run: whoever resumes must be refused."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from noprop_dist.simulation.disk import SimulatedDisk
from noprop_dist.simulation.fault_kinds.kind import NOTHING, Kind
from noprop_dist.simulation.fault_kinds.processes import at_work
from noprop_dist.storage.checkpoints import Checkpoints
from noprop_dist.storage.local_files import LocalFiles
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import Store

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation

Change = Callable[[Store, random.Random], dict[str, bytes]]
"""Contents by name, of files that are to be changed."""


def _edited(name: str, old: str, new: str) -> Change:
    """What makes another run of the one that lies there."""

    def edit(store: Store, _: random.Random) -> dict[str, bytes]:
        content = store.read(name) if store.exists(name) else b""
        return {name: content.replace(old.encode(), new.encode(), 1)} if old.encode() in content else {}

    return edit


def _foreign_snapshot(store: Store, luck: random.Random) -> dict[str, bytes]:
    """The newest snapshot of a stage, as a run with another seed would have written it."""
    directory = RunDirectory(store)
    saved, own = directory.checkpoints.saved_steps(), directory.identity()
    if not saved or own is None:
        return {}
    name, blocks = luck.choice(sorted(saved)), directory.config().blocks.count
    found, _ = directory.checkpoints.newest(name, saved[name])
    if found is None:
        return {}
    other = Store("/other", LocalFiles("/other", SimulatedDisk().for_process()))
    changed = replace(found[1], weights={each: array + 1 for each, array in found[1].weights.items()})
    Checkpoints(other, lambda: {**own, "seed": 7}).save(changed, blocks, {})
    folder = f"checkpoints/{other.names('checkpoints')[0]}"
    return {f"{folder}/{file}": other.read(f"{folder}/{file}") for file in other.names(folder)}


def _by_a_stranger(change: Change) -> Callable[["Simulation", random.Random], float]:
    """Change files while no process is there; whoever resumes must be refused, and puts back what was there."""

    def strike(simulation: "Simulation", luck: random.Random) -> float:
        driver, store = at_work(simulation.driver), simulation.storage.undisturbed()
        if driver is None or simulation.foreign:
            return NOTHING
        if simulation.storage.disk.capacity is not None or not store.exists("identity.json"):
            return NOTHING
        contents = change(store, luck)
        if not contents:
            return NOTHING
        if driver.coordinator is not None:
            driver.coordinator.process.die()
        driver.process.die()
        simulation.foreign = {name: store.read(name) for name in contents}
        simulation.storage.put(contents)
        return 0.0

    return strike


KINDS = (
    Kind("snapshot of another run", 0.7, _by_a_stranger(_foreign_snapshot)),
    Kind("seed edited", 0.4, _by_a_stranger(_edited("config.yaml", "seed: 0", "seed: 7"))),
    Kind("other data", 0.4, _by_a_stranger(_edited("data.json", '"mean": [\n  0.0', '"mean": [\n  0.5'))),
)
