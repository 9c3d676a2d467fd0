"""The actors of a run: made, called, waited for, noticed when they are lost or hang, and made again.

A worker is a name for the whole run; every process that bears it is an incarnation of it. Calls belong to one
incarnation: once that is lost nobody waits for their replies any more, so none can come late.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

import ray
from ray.exceptions import RayError

from noprop_dist.distributed.cluster import cause_of_loss, draining_nodes, raised_by_constructor
from noprop_dist.distributed.messages import WorkerFacts

ActorHandle = Any
"""Ray's actor handles have no static type."""
CallKind = Literal["facts", "hold", "release", "train", "update", "snapshot", "stop", "evaluate"]
LONGEST_BACK_OFF_SECONDS = 30.0
LOOK_FOR_DRAINS_SECONDS = 2.0
BLOCK_WORKER = "block worker"
LossReason = Literal["died", "hung", "node_leaving", "not_started"]


@dataclass(frozen=True)
class Call:
    """A call under way.

    Attributes:
        kind: the method.
        stage: that it is about; None for none.
        since: monotonic seconds.
        patience_seconds: without any reply of its worker, until that counts as hung.
    """

    kind: CallKind
    stage: int | None
    since: float
    patience_seconds: float


@dataclass
class Worker:
    """One name, and its present incarnation if it has one.

    Attributes:
        name: such as 'block worker 2'.
        create: makes an actor.
        incarnation: 1, 2, …; 0 before the first.
        handle: of the actor; None while there is none.
        facts: of the actor, once it is ready.
        calls: under way, the oldest first.
        heard: when the last reply of any incarnation came; 0 before the first.
        losses_in_row: incarnations lost since the last one that did any work.
        retry_at: when the next incarnation may be made.
        given_up: why there will be none.
        leaving: its node is about to go; it takes in no more blocks.
    """

    name: str
    create: Callable[[], ActorHandle]
    incarnation: int = 0
    handle: ActorHandle = None
    facts: WorkerFacts | None = None
    calls: dict[Any, Call] = field(default_factory=dict)
    heard: float = 0.0
    losses_in_row: int = 0
    retry_at: float = 0.0
    given_up: str | None = None
    leaving: bool = False

    @property
    def ready(self) -> bool:
        """Whether it can work."""
        return self.facts is not None


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

    def add(self, name: str, create: Callable[[], ActorHandle]) -> None:
        """Add a worker; `replace_lost` makes its first incarnation."""
        self.workers[name] = Worker(name, create)

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
        method = getattr(worker.handle, kind)
        if kind == "stop":
            method = method.options(concurrency_group="control")  # does not wait for the calls before it
        worker.calls[method.remote(*arguments)] = Call(kind, stage, time.monotonic(), patience_seconds)

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

    def lose(self, worker: Worker, reason: LossReason, cause: str) -> Lost:
        """End an incarnation, if that is not done yet, and forget its calls."""
        running = next((call.stage for call in worker.calls.values() if call.kind not in ("stop", "release")), None)
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
        worker.heard = time.monotonic()
        if isinstance(value, WorkerFacts):
            worker.facts = value
            return Ready(worker, value)
        if call.kind in ("train", "update", "evaluate"):
            worker.losses_in_row = 0
        return Reply(worker, call, value)

    def _hung(self) -> list[Lost]:
        now, lost = time.monotonic(), []
        for worker in self.workers.values():
            call = next(iter(worker.calls.values()), None)
            if call is None or now - max(worker.heard, call.since) <= call.patience_seconds:
                continue
            if call.kind == "facts":
                # Perhaps there is no room for it; asking again is free.
                self.lose(worker, "not_started", "did not start in time")
                worker.losses_in_row = 0
            else:
                lost.append(self.lose(worker, "hung", f"it hung: no reply for {call.patience_seconds:.0f} s"))
        return lost


def _next_in_order(worker: Worker, answered: frozenset[Any]) -> list[Any]:
    """The answered calls that none unanswered was made before: Ray tells of replies in an order of its own.

    Taken before the report ahead of it, a report would make that one pass for a replay, and a snapshot would be written
    without the record of the steps that lead to it. Only `stop` overtakes other calls.
    """
    in_turn = [reference for reference, call in worker.calls.items() if call.kind != "stop"]
    overtaking = (worker.calls.keys() & answered) - set(in_turn)
    return [*overtaking, *takewhile(answered.__contains__, in_turn)]
