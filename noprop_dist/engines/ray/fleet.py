"""The actors of a run: made, called, waited for, noticed when they are lost or hang, and made again.

A worker is a name for the whole run; every process that bears it is an incarnation of it. Calls belong to one
incarnation: once that is lost nobody waits for their replies any more, so none can come late.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import RayError

from noprop_dist.engines.ray.cluster import cause_of_loss, draining_nodes, raised_by_constructor
from noprop_dist.engines.ray.worker import MAIN_LANE, ActorHandle, Call, CallKind, Worker
from noprop_dist.training.messages import WorkerFacts

LONGEST_BACK_OFF_SECONDS = 30.0
LOOK_FOR_DRAINS_SECONDS = 2.0
BLOCK_WORKER = "block worker"
LossReason = Literal["died", "hung", "node_leaving", "not_started"]


@dataclass(frozen=True)
class Ready:
    """An incarnation is ready."""

    worker: Worker
    facts: WorkerFacts


@dataclass(frozen=True)
class Reply:
    """A call was answered."""

    worker: Worker
    call: Call
    value: Any


@dataclass(frozen=True)
class Lost:
    """An incarnation is gone; `stage` is the one that it was at work on, `cause` the reason for people."""

    worker: Worker
    stage: int | None
    reason: LossReason
    cause: str


Event = Ready | Reply | Lost


class Fleet:
    """All workers of a run, by name.

    Args:
        start_timeout_seconds: for an actor to become ready before another one is tried.
    """

    def __init__(self, start_timeout_seconds: float) -> None:
        self.workers: dict[str, Worker] = {}
        self._start_timeout_seconds = start_timeout_seconds
        self._looked_for_drains = time.monotonic()

    def add(self, name: str, create: Callable[[], ActorHandle], lanes: int = 1) -> None:
        """Add a worker; `replace_lost` makes its first incarnation."""
        self.workers[name] = Worker(name, create, lanes)

    def replace_lost(self) -> None:
        """Make an incarnation of every worker that has none, where its back-off is over."""
        now = time.monotonic()
        for worker in self.workers.values():
            if worker.handle is None and worker.given_up is None and now >= worker.retry_at:
                worker.handle = worker.create()
                worker.incarnation += 1
                self.call(worker, "facts", self._start_timeout_seconds)

    def call(
        self,
        worker: Worker,
        kind: CallKind,
        patience_seconds: float,
        *arguments: Any,
        stage: int | None = None,
    ) -> None:
        """Call a method of a worker's present incarnation; the reply is an event of a later `poll`."""
        # `stop` does not wait for the calls before it.
        method, lane = getattr(worker.handle, kind), "control" if kind == "stop" else worker.lane_of(stage)
        if lane != MAIN_LANE:
            method = method.options(concurrency_group=lane)
        worker.calls[method.remote(*arguments)] = Call(kind, stage, lane, time.monotonic(), patience_seconds)

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Wait for something to happen, for so long at most; all that has happened."""
        asked = [reference for worker in self.workers.values() for reference in worker.calls]
        if not asked:
            time.sleep(timeout_seconds)
            return []
        answered, waiting = ray.wait(asked, timeout=timeout_seconds)
        if answered and waiting:
            answered += ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        here = frozenset(answered)
        events = [
            self._reply(worker, reference)
            for worker in self.workers.values()
            for reference in _next_in_order(worker, here)
        ]
        return [event for event in [*events, *self._hung()] if event is not None]

    def lose(self, worker: Worker, reason: LossReason, cause: str, lane: str | None = None) -> Lost:
        """End an incarnation, if that is not done yet, and forget its calls; `lane` is the one to blame, if known."""
        at_work = (call for call in worker.calls.values() if call.kind not in ("stop", "release"))
        running = next((call.stage for call in at_work if lane in (None, call.lane)), None)
        worker.calls.clear()
        ray.kill(worker.handle)
        worker.handle = worker.facts = None
        worker.leaving = False
        worker.losses_in_row += 1
        back_off = 0.0 if worker.losses_in_row == 1 else 2.0 ** (worker.losses_in_row - 2)
        worker.retry_at = time.monotonic() + min(back_off, LONGEST_BACK_OFF_SECONDS)
        return Lost(worker, running, reason, cause)

    def block_workers(self) -> list[Worker]:
        """The workers that hold blocks."""
        return [worker for worker in self.workers.values() if worker.name.startswith(BLOCK_WORKER)]

    def can_hold(self, home: str) -> bool:
        """Whether there is, or will be, any worker for a stage of that home."""
        workers = self.block_workers() if home.startswith(BLOCK_WORKER) else [self.workers[home]]
        return any(worker.given_up is None for worker in workers)

    def leaving(self) -> list[Worker]:
        """Block workers whose nodes are about to leave the cluster; asks the cluster now and then."""
        now = time.monotonic()
        if now - self._looked_for_drains > LOOK_FOR_DRAINS_SECONDS:
            self._looked_for_drains = now
            draining = draining_nodes()
            for worker in self.block_workers():
                worker.leaving = worker.facts is not None and worker.facts.node_id in draining
        return [worker for worker in self.block_workers() if worker.leaving]

    def close(self) -> None:
        """End all actors."""
        for worker in self.workers.values():
            worker.calls.clear()
            if worker.handle is not None:
                ray.kill(worker.handle)
                worker.handle = worker.facts = None

    def _reply(self, worker: Worker, reference: Any) -> Event | None:
        call = worker.calls.get(reference)
        if call is None:
            return None  # its incarnation was lost a moment ago
        try:
            value = ray.get(reference)
        except RayError as error:
            lost = self.lose(worker, "died", cause_of_loss(error))
            if raised_by_constructor(error):
                worker.given_up = lost.cause
            return lost
        del worker.calls[reference]
        worker.heard[call.lane] = time.monotonic()
        if isinstance(value, WorkerFacts):
            worker.facts = value
            return Ready(worker, value)
        if call.kind in ("train", "update", "evaluate"):
            worker.losses_in_row = 0
        return Reply(worker, call, value)

    def _hung(self) -> list[Lost]:
        now, lost = time.monotonic(), []
        for worker in self.workers.values():
            oldest = {call.lane: call for call in reversed(worker.calls.values())}
            late = (c for c in oldest.values() if now - max(worker.heard.get(c.lane, 0), c.since) > c.patience_seconds)
            call = next(late, None)
            if call is None:
                continue
            if call.kind == "facts":
                # Perhaps there is no room for it; asking again is free.
                self.lose(worker, "not_started", "did not start in time")
                worker.losses_in_row = 0
            else:
                cause = f"it hung: no reply for {call.patience_seconds:.0f} s"
                lost.append(self.lose(worker, "hung", cause, call.lane))
        return lost


def _next_in_order(worker: Worker, answered: frozenset[Any]) -> list[Any]:
    """The answered calls that none unanswered of their lane was made before: Ray tells of replies in its own order.

    Taken before the report ahead of it, a report would make that one pass for a replay, and a snapshot would be written
    without the record of the steps that lead to it.
    """
    waiting: set[str] = set()
    in_turn = []
    for reference, call in worker.calls.items():
        if reference in answered and call.lane not in waiting:
            in_turn.append(reference)
        else:
            waiting.add(call.lane)
    return in_turn
