"""What is simulated: a run, its cluster, where it is stored, and what happens to it. All drawn from a seed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Literal

from pydantic import ConfigDict

from noprop_dist.config.layers import load_config
from noprop_dist.data.dataset import DataFacts
from noprop_dist.run_plan import RunPlan

FACTS = DataFacts("made up", (1, 8, 8), tuple("0123456789"), (0.0,), (1.0,),
                  {"train": 4096, "validation": 100, "test": 100}, "")  # fmt: skip
LEARNED = "embedding={kind: learned, sync_steps: 4}"
PATIENCES = (
    *("engine.hang_seconds=8", "engine.stall_timeout_seconds=60", "engine.start_timeout_seconds=40"),
    *("engine.worker_timeout_seconds=300", "engine.coordinator_timeout_seconds=25", "engine.grace_seconds=20"),
    *("engine.move_after_seconds=10", "checkpoint.storage_timeout_seconds=120", "engine.sampling=worker"),
)
"""Shorter than the defaults, so that a run in which each of them is used up takes minutes and not hours."""


STRICT = ConfigDict(extra="forbid")
"""Of what is read from a file: a field that nobody knows is refused."""


@dataclass(frozen=True)
class Fault:
    """One thing that happens: at a time, just before a turn of the world, or at a point of a coordinator.

    Attributes:
        kind: its name; see `faults.KINDS`. Where a victim is named, it only says how that is counted.
        seconds: after the beginning at which it happens, unless `turn` or `point` says when.
        pick: from which its victim and its length are drawn.
        turn: of the world, just before which it happens; -1 for none.
        victim: name of the actor, node or driver that is killed at that turn, or of a coordinator; else it is drawn.
        point: of the coordinator that is named, at which that one dies; see `Process.points`. -1 for none.
    """

    __pydantic_config__: ClassVar = STRICT

    kind: str
    seconds: float
    pick: int
    turn: int = -1
    victim: str = ""
    point: int = -1


@dataclass(frozen=True)
class Scenario:
    """One simulated run.

    Attributes:
        seed: of all delays.
        settings: of the run, as for `train`.
        again: settings that each resume gives in place of those, in turn.
        nodes: (cores, GPUs) of each machine.
        most_nodes: that an autoscaler adds to, for actors that have no room; 0 for a cluster without one.
        store: where the run directory lies.
        turn_seconds: most that the coordinator is busy between two turns of its loop.
        faults: that happen to it, in order.
    """

    __pydantic_config__: ClassVar = STRICT
    seed: int
    settings: tuple[str, ...]
    again: tuple[tuple[str, ...], ...] = ()
    nodes: tuple[tuple[int, int], ...] = ((2, 0), (2, 0))
    most_nodes: int = 0
    store: Literal["disk", "bucket"] = "disk"
    turn_seconds: float = 0.01
    faults: tuple[Fault, ...] = ()

    def with_faults(self, faults: Sequence[Fault]) -> "Scenario":
        return replace(self, faults=tuple(faults))


@lru_cache(maxsize=4096)
def plan_of(settings: tuple[str, ...]) -> RunPlan:
    """The plan of a run with these settings; no data is loaded."""
    return RunPlan(load_config("digits", None, list(settings)), FACTS)


@dataclass(frozen=True)
class Size:
    """How large a simulated run is.

    Attributes:
        blocks: T.
        rounds: of each stage.
        faults: most in one run; how many there are is drawn, and is half of that on average.
    """

    blocks: int = 10
    rounds: int = 50
    faults: int = 20


def draw_scenario(seed: int, size: Size, kinds: Mapping[str, float]) -> Scenario:
    """The scenario of a seed.

    Args:
        seed: any number.
        size: of the run.
        kinds: how often each kind of fault is drawn, by its name.
    """
    luck = random.Random(seed)
    steps = luck.choice([2, 4])
    total = size.rounds * steps
    learned, early = luck.random() < 0.3, luck.random() < 0.15
    every = luck.choice([10, 20]) * steps
    settings = [
        *(f"blocks.count={size.blocks}", f"training.max_steps={total}", *PATIENCES),
        LEARNED if learned else "embedding={kind: onehot}",
        f"checkpoint.every_steps={every}",
        f"engine.max_failures={luck.choice([-1, -1, 3])}",
        "evaluation.samples=0" if not early and luck.random() < 0.2 else "evaluation.samples=10",
    ]
    if early:
        settings += ["training.early_stopping={patience: 2}"]
    replicas = luck.choice([1, 1, 1, 1, 1, 2])
    settings += [f"training.replicas_per_block={replicas}"]
    engines = [_engine(luck, steps, every, learned, 1 if replicas > 1 else None) for _ in range(3)]
    count = luck.randint(0, size.faults)
    names, weights = list(kinds), list(kinds.values())
    faults = sorted(
        (
            Fault(luck.choices(names, weights)[0], round(luck.uniform(0, 90), 2), luck.getrandbits(24))
            for _ in range(count)
        ),
        key=lambda fault: fault.seconds,
    )
    gpus = luck.choice([0, 0, 0, 0, 1, 2])
    nodes = tuple((2, gpus) for _ in range(luck.randint(2, 3)))
    store: Literal["disk", "bucket"] = luck.choice(["disk", "disk", "bucket"])
    turn_seconds = luck.choice([0.01, 0.1, 0.1, 0.3])
    return Scenario(
        seed,
        (*settings, *engines[0]),
        tuple((*settings, *engine) for engine in engines[1:]),
        nodes,
        luck.choice([0, 0, 0, 4, 10]) if gpus == 0 else 0,
        store,
        turn_seconds,
        tuple(faults),
    )


def _engine(luck: random.Random, steps: int, every: int, learned: bool, lanes: int | None) -> tuple[str, ...]:
    """Settings that change no bit; a resume may give others."""
    return (
        f"engine.workers={luck.choice([2, 3, 4, 'auto', '{max: 5}'])}",
        f"engine.round_steps={steps}",
        f"engine.prefetch={luck.choice([1, 2, 3])}",
        f"engine.blocks_at_once={lanes or luck.choice([1, 1, 3])}",
        f"engine.blocks_per_worker={'null' if learned else luck.choice(['null', 3])}",
        f"checkpoint.snapshot_every_steps={luck.choice([every, every, every // 2, every // 5])}",
    )
