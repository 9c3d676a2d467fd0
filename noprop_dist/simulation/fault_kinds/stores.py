"""What happens to the store, and to what lies in it."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from noprop_dist.simulation.fault_kinds.kind import NOTHING, Kind
from noprop_dist.simulation.storage import BROKEN, FULL, READ_ONLY, flip
from noprop_dist.storage.metrics_files import METRICS, MetricsFiles

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation


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
    bucket.stale_seconds = luck.uniform(0.5, 20)
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


def _disk_away(simulation: "Simulation", luck: random.Random) -> float:
    storage, seconds = simulation.storage, luck.uniform(1, 60)
    if storage.kind != "disk" or storage.away or not storage.holds_run:
        return NOTHING
    storage.take_away(seconds)
    return seconds


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
        records = [name for name, content in MetricsFiles(store).contents() if content]
        files = records[-1:] if pattern == METRICS else found[-12:]
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


KINDS = (
    Kind("disk full", 1, _disk_full),
    Kind("store fails", 1, _store_fails),
    Kind("store hangs", 0.7, _store_hangs),
    Kind("store slow", 1, _store_slow),
    Kind("listings stale", 1, _stale_listings),
    Kind("disk not there for a while", 0.7, _disk_away),
    Kind("power lost", 1, _lose_power),
    Kind("bit flipped in a snapshot", 1, _damage(".safetensors", "flip")),
    Kind("entry damaged", 1, _damage(".json", "flip")),
    Kind("manifest truncated", 0.7, _damage("manifest.json", "cut")),
    Kind("metrics.jsonl: lines doubled", 0.5, _damage("metrics.jsonl", "doubled")),
    Kind("metrics.jsonl: cut off", 0.5, _damage("metrics.jsonl", "cut")),
    Kind("metrics.jsonl: bit flipped", 0.5, _damage("metrics.jsonl", "flip")),
)
