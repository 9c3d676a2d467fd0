"""Which worker holds which blocks, now and next: pure functions. No result depends on what they say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEAST_GAIN_SECONDS = 10.0
LEAST_GAIN_SHARE = 0.15
"""A move costs a snapshot and a new start of the block; it has to be worth it."""


@dataclass(frozen=True)
class Load:
    """What a ready worker has to do.

    Attributes:
        worker: name.
        seconds_left: of each block that it holds, if it did nothing else.
        slowness: time of its steps relative to the other workers'; 1 is average.
        free: blocks that it can still take in; None is any number.
    """

    worker: str
    seconds_left: Mapping[int, float]
    slowness: float
    free: int | None

    @property
    def total_seconds(self) -> float:
        """Until all of its blocks are done."""
        return sum(self.seconds_left.values())

    @property
    def has_room(self) -> bool:
        """Whether it can take in another block."""
        return self.free is None or self.free > 0


@dataclass(frozen=True)
class Move:
    """One block from one worker to another."""

    block: int
    source: str
    target: str


def best_move(loads: Sequence[Load]) -> Move | None:
    """The move off the worker that would finish last which ends the run soonest; None where none is worth it.

    Idle workers, returning devices and faster ones all get their share through this one rule.
    """
    if len(loads) < 2:
        return None
    source = max(loads, key=lambda load: load.total_seconds)
    best, best_gain = None, max(LEAST_GAIN_SECONDS, LEAST_GAIN_SHARE * source.total_seconds)
    for target in loads:
        if target is source or not target.has_room:
            continue
        for block, seconds in source.seconds_left.items():
            there = target.total_seconds + seconds * target.slowness / source.slowness
            gain = source.total_seconds - max(there, source.total_seconds - seconds)
            if gain > best_gain:
                best, best_gain = Move(block, source.worker, target.worker), gain
    return best


def worker_for(
    home: str, loads: Mapping[str, Load], home_is_coming: bool, waiting_for: Mapping[str, int]
) -> str | None:
    """The worker that a waiting block goes to now; None is to wait on.

    Args:
        home: the worker that it should be on.
        loads: of the ready workers, by name.
        home_is_coming: whether a missing home is still worth waiting for.
        waiting_for: how many blocks wait for each home; a worker serves its own first.
    """
    if home in loads:
        if loads[home].has_room:
            return home
        others = [load for name, load in loads.items() if load.has_room and not waiting_for.get(name)]
    elif home_is_coming:
        return None
    else:
        others = [load for load in loads.values() if load.has_room]
    return min(others, key=lambda load: (load.total_seconds, len(load.seconds_left))).worker if others else None
