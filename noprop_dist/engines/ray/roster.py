"""Which stage is on which worker: brings stages to workers, takes them back, and moves them."""

import time
from collections import Counter
from math import isfinite

from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.core.assignment import Load, best_moves, worker_for
from noprop_dist.engines.ray.actors import CLASSIFIER_WORKER
from noprop_dist.engines.ray.fleet import Fleet
from noprop_dist.engines.ray.snapshot_keeper import SnapshotKeeper
from noprop_dist.engines.ray.stage import Stage
from noprop_dist.engines.ray.worker import Worker

UNMEASURED_STEP_SECONDS = 1e-3
LOOK_FOR_MOVES_SECONDS = 5.0


class Roster:
    """All stages of a run and where they are.

    Args:
        stages: by number.
        fleet: of the run.
        keeper: of the snapshots that stages begin from.
        engine: settings.
    """

    def __init__(self, stages: dict[int, Stage], fleet: Fleet, keeper: SnapshotKeeper, engine: EngineSettings) -> None:
        self._stages = stages
        self._fleet = fleet
        self._keeper = keeper
        self._engine = engine
        self._looked_for_moves = time.monotonic()
        self._first_ready: float | None = None

    def held_by(self, worker: Worker) -> list[Stage]:
        """The stages on a worker."""
        return [stage for stage in self._stages.values() if stage.worker == worker.name]

    def assign(self) -> list[Stage]:
        """Bring waiting stages to workers that are ready; those that were brought."""
        waiting = [stage for stage in self._stages.values() if stage.waits]
        brought = []
        for stage in waiting:
            name = self._place_for(stage, Counter(each.home for each in waiting if each.waits))
            if name is not None:
                self._hold(stage, self._fleet.workers[name])
                brought.append(stage)
        return brought

    def let_go(self, stage: Stage) -> None:
        """Take a stage off its worker, if it is on one."""
        worker = self._fleet.workers[stage.worker] if stage.worker is not None else None
        if worker is not None and worker.ready:
            self._fleet.call(worker, "release", self._engine.stall_timeout_seconds, stage.number, stage=stage.number)
        self.forget(stage)

    def forget(self, stage: Stage) -> None:
        """A stage is on no worker any more; it will begin again from its newest snapshot."""
        gone = stage.worker is not None and self._fleet.workers[stage.worker].leaving
        stage.waiting_since = float("-inf") if gone else time.monotonic()  # there is nothing to wait for
        stage.worker, stage.leaving = None, False
        stage.queue.rewind(self._keeper.latest_step(stage.number))

    def plan_moves(self) -> list[Stage]:
        """Let the blocks leave whose moves to other workers end the run soonest, now and then."""
        now = time.monotonic()
        if now - self._looked_for_moves < LOOK_FOR_MOVES_SECONDS or any(s.leaving for s in self._stages.values()):
            return []
        self._looked_for_moves = now
        moves = best_moves(list(self._loads().values()))
        for move in moves:
            stage = self._stages[move.block]
            stage.home, stage.leaving = move.target, True
        return [self._stages[move.block] for move in moves]

    def _hold(self, stage: Stage, worker: Worker) -> None:
        snapshot = self._keeper.latest(stage.number)
        stage.worker = stage.home = worker.name
        stage.queue.rewind(0 if snapshot is None else snapshot.step)
        patience = self._engine.stall_timeout_seconds
        self._fleet.call(worker, "hold", patience, stage.number, snapshot, stage=stage.number)

    def _place_for(self, stage: Stage, waiting_for: Counter[str]) -> str | None:
        home = self._fleet.workers[stage.home]
        if stage.home == CLASSIFIER_WORKER:
            return stage.home if home.ready else None
        loads = self._loads()
        if loads and self._first_ready is None:
            self._first_ready = time.monotonic()
        since = stage.waiting_since
        if isfinite(since) and self._first_ready is not None:
            since = max(since, self._first_ready)  # where all workers start late, the first is not given every block
        coming = home.given_up is None and time.monotonic() - since < self._engine.move_after_seconds
        return worker_for(stage.home, loads, coming, waiting_for)

    def _loads(self) -> dict[str, Load]:
        """Of the ready block workers that stay."""
        measured = [s.slowest_step_seconds for s in self._stages.values() if s.slowest_step_seconds is not None]
        mean = sum(measured) / len(measured) if measured else UNMEASURED_STEP_SECONDS
        workers = [w for w in self._fleet.block_workers() if w.ready and not w.leaving]
        return {worker.name: self._load(worker, mean) for worker in workers}

    def _load(self, worker: Worker, mean: float) -> Load:
        held = [stage for stage in self.held_by(worker) if not stage.over]
        seconds = [stage.slowest_step_seconds or mean for stage in held]
        limit = self._engine.blocks_per_worker
        return Load(
            worker.name,
            {stage.number: stage.queue.steps_left * each for stage, each in zip(held, seconds, strict=True)},
            sum(seconds) / len(seconds) / mean if seconds else 1.0,
            None if limit is None else limit - len(held),
        )
