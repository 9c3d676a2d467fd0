"""The actors of a run as the core knows them: slots, their incarnations, and the calls under way.

A slot is a name for the whole run, such as "block worker 2". Each process that fills it is an incarnation. Calls belong
to one incarnation: once that is lost they are forgotten with it, so no reply can come late.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import Any

from noprop_dist.engines.core.commands import (
    CallActor,
    Command,
    DescribeYourself,
    Evaluate,
    Incarnation,
    KillActor,
    Ping,
    Release,
    Request,
    Slot,
    StartActor,
    Stop,
    Train,
    UpdateEmbedding,
)
from noprop_dist.engines.core.placement import WorkerPlace
from noprop_dist.engines.core.watched import Watched
from noprop_dist.stages import Stage
from noprop_dist.training.messages import WorkerFacts

MAIN_LANE, CONTROL_LANE = "main", "control"
"""Calls of one lane are done in order. `stop` and `ping` have a lane of their own: they wait for no work."""

AVOIDED_SECONDS = 60.0
"""For room on another node than the one where memory ran out; then that one has to do."""
ROUNDING_SECONDS = 1e-3
"""Far more than sums of seconds differ by."""
PING_PATIENCE = 3
"""A process that answers no ping for this many times `engine.hang_seconds` is stuck, however long a round may take."""

ProofOfWork = Train | UpdateEmbedding | Evaluate
"""An answer to one of these shows that the actor works. Losses before it are not counted any more."""


@dataclass(frozen=True)
class Absent:
    """No process; the next one may be started at `retry_at` (monotonic seconds)."""

    retry_at: float


@dataclass(frozen=True)
class Starting:
    """A process was asked for and has not answered yet."""


@dataclass(frozen=True)
class Ready:
    """The process has answered its first call."""

    facts: WorkerFacts


@dataclass(frozen=True)
class GivenUp:
    """There will be no other process, because of `cause`."""

    cause: str


@dataclass(frozen=True)
class GivenBack:
    """No process, and none is wanted: the run has no use for it now, or the cluster no room."""


ActorState = Absent | Starting | Ready | GivenUp | GivenBack


@dataclass(frozen=True)
class Call:
    """A call under way.

    Attributes:
        number: rises with every call of the run.
        request: what was asked.
        stage: that it is about; None for none.
        since: when it was made, monotonic seconds.
        patience_seconds: without any reply of its lane, after which the actor counts as hung.
    """

    number: int
    request: Request
    stage: Stage | None
    since: float
    patience_seconds: float


@dataclass(frozen=True)
class Answer:
    """The reply to a call, in the order of the calls of its lane."""

    slot: Slot
    call: Call
    value: Any


@dataclass
class ActorSlot:
    """One slot and its present incarnation.

    Attributes:
        slot: its identity.
        pool: told of every change of `state` and `leaving`.
        place: what a block worker asks of the cluster; None for the other roles.
        lanes: stages that it trains at the same time.
        incarnation: 1, 2, …; 0 before the first.
        state: of that incarnation.
        calls: under way by lane, the oldest first.
        answers: to calls whose lane has an older one unanswered, by the number of the call.
        heard: when the last reply of any incarnation came, by lane.
        losses_in_row: incarnations lost since one of them did any work.
        leaving: its node is about to go; it takes in nothing more.
        avoided_node: where its last incarnation was killed for want of memory; "" for none.
    """

    slot: Slot
    pool: Watched[Slot, "ActorSlot"] = field(repr=False, compare=False)
    place: WorkerPlace | None = None
    lanes: int = 1
    incarnation: int = 0
    state: ActorState = Absent(retry_at=float("-inf"))
    calls: dict[str, deque[Call]] = field(default_factory=dict)
    answers: dict[int, Any] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)
    losses_in_row: int = 0
    leaving: bool = False
    avoided_node: str = ""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("state", "leaving"):
            self.pool.changed()

    @property
    def is_block_worker(self) -> bool:
        return self.slot.role == "block worker"

    @property
    def is_wanted_block_worker(self) -> bool:
        return self.is_block_worker and self.wanted

    @property
    def is_ready_block_worker(self) -> bool:
        return self.is_block_worker and self.ready

    @property
    def absent(self) -> bool:
        return isinstance(self.state, Absent)

    @property
    def ready(self) -> bool:
        return isinstance(self.state, Ready)

    @property
    def given_up(self) -> bool:
        return isinstance(self.state, GivenUp)

    @property
    def wanted(self) -> bool:
        """Return True if the run has use for it."""
        return not isinstance(self.state, GivenUp | GivenBack)

    @property
    def busy(self) -> bool:
        """Return True if a call is under way, other than to ask whether it is there."""
        return any(calls for lane, calls in self.calls.items() if lane != CONTROL_LANE)

    @property
    def process(self) -> Incarnation:
        return Incarnation(self.slot, self.incarnation)

    @property
    def facts(self) -> WorkerFacts | None:
        return self.state.facts if isinstance(self.state, Ready) else None

    def lane_of(self, request: Request, stage: Stage | None) -> str:
        """The lane in which a call waits for the calls before it."""
        if isinstance(request, Stop | Ping):
            return CONTROL_LANE
        return MAIN_LANE if stage is None or self.lanes == 1 else lane_name(stage.index % self.lanes)


def lane_name(number: int) -> str:
    """A lane of a worker that trains several stages at the same time; Ray's name of it, too."""
    return f"lane-{number}"


class ActorPool:
    """All slots of a run.

    Args:
        outbox: where commands are appended.
        start_timeout_seconds: for an incarnation to become ready before another one is tried.
    """

    def __init__(self, outbox: list[Command], start_timeout_seconds: float) -> None:
        self.slots = Watched[Slot, ActorSlot]()
        self._outbox = outbox
        self._start_timeout_seconds = start_timeout_seconds
        self._numbers = count()
        self._lane_of_call: dict[int, tuple[ActorSlot, str]] = {}
        self._none_silent_before = self._none_overdue_before = -inf
        """Until then nobody is looked at: there may be a thousand of them, and a thousand turns a second."""

    def add(self, slot: Slot, place: WorkerPlace | None = None, lanes: int = 1) -> None:
        """Add a slot; `start_absent` starts its first incarnation."""
        self.slots[slot] = ActorSlot(slot, self.slots, place, lanes)

    @property
    def block_workers(self) -> Sequence[ActorSlot]:
        """The slots of block workers, whatever state they are in."""
        return self.slots.those("is_block_worker")

    def start_absent(self, now: float) -> None:
        """Start an incarnation of every slot that has none, once its back-off is over."""
        for each in self.slots.those("absent"):
            if isinstance(each.state, Absent) and now >= each.state.retry_at:
                each.incarnation += 1
                each.state = Starting()
                self._outbox.append(StartActor(each.process, each.place, each.lanes, each.avoided_node))
                patience = min(self._start_timeout_seconds, AVOIDED_SECONDS if each.avoided_node else inf)
                self.call(each.slot, DescribeYourself(), None, patience, now)

    def call(self, slot: Slot, request: Request, stage: Stage | None, patience_seconds: float, now: float) -> None:
        """Call the present incarnation of a slot."""
        called = self.slots[slot]
        lane = called.lane_of(request, stage)
        call = Call(next(self._numbers), request, stage, now, patience_seconds)
        called.calls.setdefault(lane, deque()).append(call)
        self._lane_of_call[call.number] = called, lane
        self._none_overdue_before = min(self._none_overdue_before, now + patience_seconds - ROUNDING_SECONDS)
        self._outbox.append(CallActor(call.number, called.process, lane, request))

    def answered(self, number: int, value: Any, now: float) -> Iterator[Answer]:
        """Take in a reply; yield the replies whose turn has come.

        Ray tells of replies in an order of its own. If a later report were taken first, the earlier one would pass for
        a replay and would not be written down. A snapshot taken too early would lack the records of its steps.
        """
        if number not in self._lane_of_call:
            return  # its incarnation is lost
        slot, lane = self._lane_of_call[number]
        slot.answers[number] = value
        calls = slot.calls[lane]
        while calls and calls[0].number in slot.answers:
            call = calls.popleft()
            del self._lane_of_call[call.number]
            slot.heard[lane] = now
            yield self._in_turn(slot, call, slot.answers.pop(call.number))

    def _in_turn(self, slot: ActorSlot, call: Call, value: Any) -> Answer:
        if isinstance(value, WorkerFacts):
            slot.state = Ready(value)
        if isinstance(call.request, ProofOfWork):
            slot.losses_in_row = 0
        return Answer(slot.slot, call, value)

    def ping_silent(self, hang_seconds: float, now: float) -> None:
        """Ping the actors that have work and were silent for `hang_seconds`.

        The first round of a process may take half an hour. Whether the process is there at all is known sooner.
        """
        if now < self._none_silent_before:
            return
        longest = now
        for slot in self.slots.values():
            calls = [call for each in slot.calls.values() for call in each]
            if not slot.ready or not calls or slot.calls.get(CONTROL_LANE):
                continue
            silent_since = max(min(call.since for call in calls), *slot.heard.values())
            if now - silent_since > hang_seconds:
                self.call(slot.slot, Ping(), None, PING_PATIENCE * hang_seconds, now)
            else:
                longest = min(longest, silent_since)
        self._none_silent_before = longest + hang_seconds - ROUNDING_SECONDS

    def overdue(self, now: float) -> list[tuple[ActorSlot, str, Call]]:
        """Slots of which a lane was silent for longer than its oldest call allows, with that lane and call."""
        if now < self._none_overdue_before:
            return []
        late, first = [], inf
        for slot in self.slots.values():
            for lane, calls in slot.calls.items():
                if not calls:
                    continue
                heard = max(slot.heard.get(lane, 0.0), calls[0].since)
                first = min(first, heard + min(call.patience_seconds for call in calls))  # each may be the oldest next
                if now - heard > calls[0].patience_seconds:
                    late.append((slot, lane, calls[0]))
                    break
        self._none_overdue_before = first - ROUNDING_SECONDS
        return late

    def at_work_on(self, slot: ActorSlot, lane: str | None = None) -> Stage | None:
        """The stage of the oldest call under way, in one lane or in any."""
        calls = [call for name, each in slot.calls.items() if lane in (None, name) for call in each]
        working = [call for call in calls if not isinstance(call.request, Stop | Ping | Release)]
        return min(working, key=lambda call: call.number).stage if working else None

    def end(self, slot: ActorSlot, state: Absent | GivenUp | GivenBack) -> None:
        """End the present incarnation, if there is one, and forget its calls."""
        for calls in slot.calls.values():
            for call in calls:
                del self._lane_of_call[call.number]
            calls.clear()
        slot.answers.clear()
        if isinstance(slot.state, Starting | Ready):
            self._outbox.append(KillActor(slot.process))
        slot.state, slot.leaving = state, False

    def want(self, slot: ActorSlot, now: float) -> None:
        """Start a process again in a slot that was given back."""
        slot.state = Absent(retry_at=now)

    def nodes_leaving(self, node_ids: frozenset[str]) -> list[ActorSlot]:
        """Mark the actors whose nodes are about to leave the cluster, for good; return those that were not marked."""
        marked = [
            slot
            for slot in self.slots.values()
            if slot.facts is not None and not slot.leaving and slot.facts.is_on(node_ids)
        ]
        for slot in marked:
            slot.leaving = True
        return marked

    def leaving(self) -> Sequence[ActorSlot]:
        """The actors whose nodes are about to leave."""
        return self.slots.those("leaving")
