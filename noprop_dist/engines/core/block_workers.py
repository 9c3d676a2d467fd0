"""How many block workers a run has: it asks for more as its cluster grows, and gives back what it has no use for.

A worker that is asked for and has no room is an actor that waits for it. That is what makes an autoscaler add machines,
and it ends with the run, however that ends. No result depends on how many workers there are.
"""

from noprop_dist.engines.core.actor_pool import ActorSlot, GivenBack
from noprop_dist.engines.core.commands import Slot
from noprop_dist.engines.core.parts import Parts
from noprop_dist.engines.core.placement import (
    Placement,
    Resources,
    deal,
    may_place,
    on_device,
    place_run,
    workers_to_begin,
)
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.run_plan import RunPlan


class BlockWorkers:
    """The block workers of one run. `now` is always in monotonic seconds.

    Args:
        plan: of the run.
        parts: of the run.
        placement: of its blocks on the cluster as it is at the beginning.
        now: the time.
    """

    def __init__(self, plan: RunPlan, parts: Parts, placement: Placement, now: float) -> None:
        self._plan, self._parts = plan, parts
        self._placement = placement
        self._none_since: float | None = now
        self._too_many_since: float | None = None
        self.has_begun = False
        """Whether as many workers have been there as `engine.workers` asks for."""
        self._ask_for(placement, now)
        self._choose_homes()

    @property
    def _wanted(self) -> list[ActorSlot]:
        return self._parts.pool.slots.those("is_wanted_block_worker")

    @property
    def _blocks_left(self) -> list[StageRun]:
        return self._parts.stages.those("is_block_left")

    def _choose_homes(self) -> None:
        """Deal the blocks that are left to the workers that the cluster has room for."""
        blocks = self._blocks_left
        room = min(sum(bool(place.blocks) for place in self._placement.workers), len(blocks))
        for index, part in enumerate(deal(blocks, room), start=1):
            for stage_run in part:
                stage_run.home = Slot("block worker", index)

    def fit(self, resources: Resources, now: float) -> None:
        """Ask for more workers if the cluster has, or can get, room for more.

        A run stays on the kind of device that it began on: another kind computes other bits.
        """
        on_gpu = self._placement.on_gpu
        if not may_place(resources, gpus=on_gpu):
            return  # all machines are lost; the workers wait for others
        config = self._plan.config
        if not self._wanted:
            self._none_since = now  # from here on they have time to start
        engine = on_device(config.engine, gpu=on_gpu)
        placement, before = place_run(config.model_copy(update={"engine": engine}), resources), len(self._wanted)
        self._placement = placement
        self._ask_for(placement, now)
        if len(self._wanted) > before:
            self._parts.journal.tell(f"the cluster has grown: {placement.reason}")

    def _ask_for(self, placement: Placement, now: float) -> None:
        pool, wanted = self._parts.pool, len(self._wanted)
        most = min(len(placement.workers), len(self._blocks_left))
        for index, place in enumerate(placement.workers, start=1):
            slot = pool.slots.get(Slot("block worker", index))
            if wanted >= most:
                return
            if slot is None:
                pool.add(Slot("block worker", index), place, placement.lanes)
                wanted += 1
            elif isinstance(slot.state, GivenBack):
                pool.want(slot, now)
                wanted += 1

    def give_back(self, now: float) -> None:
        """End workers that outnumber the blocks left to train, or that a smaller cluster has no room for."""
        useless = len(self._wanted) - len(self._blocks_left)
        if useless > 0:
            self._end([*self._absent(), *self._idle()][:useless])
        too_many = len(self._wanted) - len(self._placement.workers)
        if too_many <= 0:
            self._too_many_since = None
        elif self._too_many_since is None:
            self._too_many_since = now
        elif now - self._too_many_since >= self._parts.engine.move_after_seconds:
            self._end(self._absent()[:too_many])

    def _absent(self) -> list[ActorSlot]:
        """Those without a process that answers, the last ones first."""
        return [worker for worker in reversed(self._wanted) if not worker.ready]

    def _idle(self) -> list[ActorSlot]:
        """Those that hold no block, and that none is on its way to."""
        busy = {place for each in self._parts.stages.values() if not each.over for place in (each.home, each.worker)}
        return [worker for worker in reversed(self._wanted) if worker.ready and worker.slot not in busy]

    def _end(self, workers: list[ActorSlot]) -> None:
        for worker in workers:
            self._parts.pool.end(worker, GivenBack())

    def check(self, now: float) -> str | None:
        """See whether enough workers are there; return why a run ends that has been without any for too long."""
        workers, ready = self._parts.pool.block_workers, len(self._parts.pool.slots.those("is_ready_block_worker"))
        self.has_begun |= ready >= self._least
        if self.has_begun and ready:
            self._none_since = None
            return None
        if not self._blocks_left:
            return None
        since = self._none_since = now if self._none_since is None else self._none_since
        engine, silent = self._parts.engine, now - since
        why = "other runs may hold the cluster's room, or a worker's process cannot start"
        if not any(worker.wanted or worker.given_up for worker in workers):
            why = self._placement.reason
        if self._was_there and silent > engine.worker_timeout_seconds:
            return (
                f"no block worker was there for engine.worker_timeout_seconds={engine.worker_timeout_seconds:g}: "
                f"{why}; `noprop-dist resume` continues the run"
            )
        if not self._was_there and silent > engine.start_timeout_seconds:
            return (
                f"{self._missing} started within engine.start_timeout_seconds={engine.start_timeout_seconds:g}: {why}"
            )
        return None

    @property
    def _was_there(self) -> bool:
        """Return True if the run had its workers once, or has had no device to start any on."""
        workers = self._parts.pool.block_workers
        return not workers or (self.has_begun and any(worker.heard for worker in workers))

    @property
    def _missing(self) -> str:
        ready, least = sum(worker.ready for worker in self._wanted), self._least
        return f"only {ready} of engine.workers.min={least} block workers" if ready else "no block worker"

    @property
    def _least(self) -> int:
        return workers_to_begin(self._parts.engine, len(self._blocks_left))

    def waits_for(self, now: float) -> str | None:
        """What people are told while no block is trained for want of workers; may be called from another thread."""
        since, workers = self._none_since, self._parts.pool.block_workers
        if since is None or not self._blocks_left:
            return None
        if not workers:
            return f"no block worker is there for {now - since:.0f} s: {self._placement.reason}"
        given_up, asked = sum(worker.given_up for worker in workers), sum(worker.wanted for worker in workers)
        ready = sum(worker.ready for worker in workers)
        there = f"{ready} of {self._least} block workers are there, after" if ready else "no block worker is there for"
        missing = f", {given_up} given up" if given_up else ""
        engine = self._parts.engine
        most = engine.worker_timeout_seconds if self._was_there else engine.start_timeout_seconds
        return (
            f"{there} {now - since:.0f} s: {asked} asked for{missing}; they wait for room on the cluster, or for their "
            f"processes to start, for {most:g} s at most; {self._placement.reason}"
        )
