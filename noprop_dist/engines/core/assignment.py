"""Which worker holds which stage, now and next. No result depends on it.

The pure functions come first; `Assignment` applies them to a run.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite

from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.core.actor_pool import ActorPool, ActorSlot
from noprop_dist.engines.core.commands import CLASSIFIER_WORKER, Hold, Release, Slot
from noprop_dist.engines.core.snapshots import Snapshots
from noprop_dist.engines.core.stage import StageRun, Waiting
from noprop_dist.engines.core.watched import Watched
from noprop_dist.stages import Stage

LEAST_GAIN_SECONDS = 10.0
LEAST_GAIN_SHARE = 0.15
"""Share of what the block has left to do. A move costs a snapshot and a new start of the block."""
UNMEASURED_STEP_SECONDS = 1e-3
MOVES_EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Load:
    """What a ready worker has to do.

    Attributes:
        worker: its slot.
        seconds_left: of each block that it holds, if it did nothing else.
        slowness: time of its steps relative to the other workers'; 1 is average.
        free: blocks that it can still take in; None is any number.
    """

    worker: Slot
    seconds_left: dict[Stage, float]
    slowness: float
    free: int | None

    @cached_property
    def total_seconds(self) -> float:
        """Seconds until all of its blocks are done."""
        return sum(self.seconds_left.values())

    @property
    def has_room(self) -> bool:
        """Return True if it can take in another block."""
        return self.free is None or self.free > 0


@dataclass(frozen=True)
class Move:
    """One block from one worker to another."""

    block: Stage
    source: Slot
    target: Slot


def best_move(loads: Sequence[Load]) -> Move | None:
    """Find the move that ends the run soonest, off the worker that would finish last; None if no move is worth it.

    Idle workers, returning devices and faster workers all get their share by this one rule.
    """
    if len(loads) < 2:
        return None
    source = max(loads, key=lambda load: load.total_seconds)
    best, best_worth = None, (LEAST_GAIN_SECONDS, 0.0)
    seen = set[tuple[float, float]]()  # of a thousand idle workers, the first is as good as any
    for target in loads:
        alike = target.total_seconds, target.slowness
        if target is source or not target.has_room or alike in seen:
            continue
        seen.add(alike)
        for block, seconds in source.seconds_left.items():
            there = target.total_seconds + seconds * target.slowness / source.slowness
            gain = source.total_seconds - max(there, source.total_seconds - seconds)
            worth = (gain, -there)  # of equal gains, the target that is done sooner
            if gain > LEAST_GAIN_SHARE * seconds and worth > best_worth:
                best, best_worth = Move(block, source.worker, target.worker), worth
    return best


def best_moves(loads: Sequence[Load]) -> list[Move]:
    """The best move, then the best one after it, and so on; no block moves twice."""
    moves: list[Move] = []
    moved = set[Stage]()
    by_worker = {load.worker: load for load in loads}
    while (move := best_move(list(by_worker.values()))) is not None:
        if move.block in moved:
            break
        moves.append(move)
        moved.add(move.block)
        source, target = by_worker[move.source], by_worker[move.target]
        left = dict(source.seconds_left)
        seconds = left.pop(move.block) * target.slowness / source.slowness
        by_worker[source.worker] = replace(source, seconds_left=left)
        free = None if target.free is None else target.free - 1
        by_worker[target.worker] = replace(target, seconds_left=target.seconds_left | {move.block: seconds}, free=free)
    return moves


def worker_for(
    home: Slot, loads: Mapping[Slot, Load], home_is_coming: bool, waiting_for: Mapping[Slot, int]
) -> Slot | None:
    """Choose the worker that a waiting block goes to now; None means that it waits on.

    Args:
        home: the worker that it should be on.
        loads: of the ready workers.
        home_is_coming: whether a missing home is still waited for.
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


class Assignment:
    """Gives the stages of one run to workers, and takes them off again.

    Args:
        stages: of the run.
        pool: of its actors.
        snapshots: stages begin from the newest of them.
        engine: settings.
        now: monotonic seconds.
    """

    def __init__(
        self,
        stages: Watched[Stage, StageRun],
        pool: ActorPool,
        snapshots: Snapshots,
        engine: EngineSettings,
        now: float,
    ) -> None:
        self._stages = stages
        self._pool = pool
        self._snapshots = snapshots
        self._engine = engine
        self._moves_planned_at = now
        self._worker_came = False
        self._first_ready: float | None = None

    def held_by(self, worker: Slot) -> list[StageRun]:
        """The stages on a worker."""
        return [stage_run for stage_run in self._stages.values() if stage_run.worker == worker]

    def assign(self, now: float) -> None:
        """Bring waiting stages to workers that are ready."""
        waiting = self._stages.those("waits")
        if not waiting:
            return
        # Counted once and not for every waiting stage: there may be thousands.
        mean = self._mean_step_seconds()
        loads, waiting_for = self._loads(mean), Counter(stage_run.home for stage_run in waiting)
        for stage_run in waiting:
            worker = self._worker_for(stage_run, loads, waiting_for, now)
            if worker is not None:
                waiting_for[stage_run.home] -= 1
                snapshot = self._snapshots.newest(stage_run.stage)
                stage_run.taken_in(worker, 0 if snapshot is None else snapshot.step)
                request = Hold(stage_run.stage, snapshot)
                self._pool.call(worker, request, stage_run.stage, self._engine.stall_timeout_seconds, now)
                if worker in loads:
                    loads[worker] = self._load(worker, self.held_by(worker), mean)

    def let_go(self, stage_run: StageRun, now: float) -> None:
        """Take a stage off its worker, and tell the worker."""
        if stage_run.worker is not None and self._pool.slots[stage_run.worker].ready:
            patience = self._engine.stall_timeout_seconds
            self._pool.call(stage_run.worker, Release(stage_run.stage), stage_run.stage, patience, now)
        self.take_off(stage_run, now)

    def take_off(self, stage_run: StageRun, now: float) -> None:
        """Take a stage off its worker; it will begin again from its newest snapshot."""
        node_left = stage_run.worker is not None and self._pool.slots[stage_run.worker].leaving
        stage_run.taken_off(self._snapshots.newest_step(stage_run.stage), now, node_left)

    def worker_lost(self, worker: ActorSlot, now: float) -> None:
        """Let the stages of a lost worker go back to their own snapshots; others do not notice."""
        for stage_run in self.held_by(worker.slot):
            stage_run.lost(self._snapshots.newest_step(stage_run.stage), now, node_left=worker.leaving)

    def can_hold(self, home: Slot) -> bool:
        """Return True if some worker can still hold a stage of this home."""
        if home == CLASSIFIER_WORKER:
            return not self._pool.slots[home].given_up
        workers = self._pool.block_workers
        return not workers or any(not worker.given_up for worker in workers)  # none: they are waited for

    def worker_came(self) -> None:
        """Let moves be planned as soon as no block waits: a worker is ready that may hold nothing."""
        self._worker_came = True

    def plan_moves(self, now: float) -> list[tuple[StageRun, Slot, Slot]]:
        """Every few seconds, and once a worker has come, begin the moves between workers that end the run soonest.

        Returns:
            Each block that leaves, with the worker that it leaves and the one that it goes to.
        """
        waits = any(stage_run.stage.is_block for stage_run in self._stages.those("waits"))
        due = (self._worker_came and not waits) or now - self._moves_planned_at >= MOVES_EVERY_SECONDS
        if not due or self._stages.those("leaving"):
            return []
        self._moves_planned_at, self._worker_came = now, False
        moves = best_moves(list(self._loads(self._mean_step_seconds()).values()))
        for move in moves:
            self._stages[move.block].home = move.target
            self._stages[move.block].leave()
        return [(self._stages[move.block], move.source, move.target) for move in moves]

    def _worker_for(
        self, stage_run: StageRun, loads: Mapping[Slot, Load], waiting_for: Mapping[Slot, int], now: float
    ) -> Slot | None:
        home = self._pool.slots.get(stage_run.home)
        if home is not None and stage_run.home == CLASSIFIER_WORKER:
            return stage_run.home if home.ready and not home.leaving else None
        if loads and self._first_ready is None:
            self._first_ready = now
        return worker_for(stage_run.home, loads, self._is_coming(home, stage_run, now), waiting_for)

    def _is_coming(self, home: ActorSlot | None, stage_run: StageRun, now: float) -> bool:
        """Return True if a missing home is still waited for, up to `engine.move_after_seconds`."""
        if home is None or not home.wanted:
            return False
        since = stage_run.state.since if isinstance(stage_run.state, Waiting) else now
        if isfinite(since) and self._first_ready is not None:
            since = max(since, self._first_ready)  # if all workers start late, the first shall not get every block
        return now - since < self._engine.move_after_seconds

    def _mean_step_seconds(self) -> float:
        """Of all stages that have reported."""
        measured = (stage_run.usual_step_seconds for stage_run in self._stages.values())
        seconds = [each for each in measured if each is not None]
        return sum(seconds) / len(seconds) if seconds else UNMEASURED_STEP_SECONDS

    def _loads(self, mean: float) -> dict[Slot, Load]:
        """What the ready block workers have to do, without those whose nodes are leaving."""
        held = defaultdict[Slot | None, list[StageRun]](list)
        for stage_run in self._stages.values():
            held[stage_run.worker].append(stage_run)
        workers = [each.slot for each in self._pool.slots.those("is_ready_block_worker") if not each.leaving]
        return {worker: self._load(worker, held[worker], mean) for worker in workers}

    def _load(self, worker: Slot, stages: Sequence[StageRun], mean: float) -> Load:
        held = [stage_run for stage_run in stages if not stage_run.over]
        seconds = [stage_run.usual_step_seconds or mean for stage_run in held]
        limit = self._engine.blocks_per_worker
        return Load(
            worker,
            {stage_run.stage: stage_run.queue.steps_left * each for stage_run, each in zip(held, seconds, strict=True)},
            sum(seconds) / len(seconds) / mean if seconds else 1.0,
            None if limit is None else limit - len(held),
        )
