"""Which worker holds which blocks, now and next: pure functions. No result depends on what they say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

LEAST_GAIN_SECONDS = 10.0
LEAST_GAIN_SHARE = 0.15
"""Of what the block has left to do. A move costs a snapshot and a new start of the block; it has to be worth it."""


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
    seconds_left: dict[int, float]
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
    best, best_worth = None, (LEAST_GAIN_SECONDS, 0.0)
    for target in loads:
        if target is source or not target.has_room:
            continue
        for block, seconds in source.seconds_left.items():
            there = target.total_seconds + seconds * target.slowness / source.slowness
            gain = source.total_seconds - max(there, source.total_seconds - seconds)
            worth = (gain, -there)  # where targets gain as much, the one that is done sooner
            if gain > LEAST_GAIN_SHARE * seconds and worth > best_worth:
                best, best_worth = Move(block, source.worker, target.worker), worth
    return best


def best_moves(loads: Sequence[Load]) -> list[Move]:
    """The best move, then the best one after it, and so on; no block moves twice."""
    moves: list[Move] = []
    by_name = {load.worker: load for load in loads}
    while (move := best_move(list(by_name.values()))) is not None:
        if move.block in {earlier.block for earlier in moves}:
            break
        moves.append(move)
        source, target = by_name[move.source], by_name[move.target]
        left = dict(source.seconds_left)
        seconds = left.pop(move.block) * target.slowness / source.slowness
        by_name[source.worker] = replace(source, seconds_left=left)
        free = None if target.free is None else target.free - 1
        by_name[target.worker] = replace(target, seconds_left=target.seconds_left | {move.block: seconds}, free=free)
    return moves


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
