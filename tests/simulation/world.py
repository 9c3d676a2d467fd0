"""A world on virtual time for `engines.core`: actors, a store, and losses at chosen times.

Everything happens in one thread. The world carries out what the core asks for and moves its own clock to the next
event, so an hour of virtual time takes milliseconds. What its actors answer is not its business: `hashing.py` has
actors that train by hashing, `real_training.py` has the engine's own workers.
"""

import heapq
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.events import ActorLost, ClusterSeen, StopRequested, StorageDone, StorageFailed, events_of
from noprop_dist.engines.core.placement import Resources, place_run
from noprop_dist.engines.core.run import Run
from noprop_dist.records import EmbeddingUpdated, RoundDone
from noprop_dist.reporting.summary import of_kind
from noprop_dist.stages import EMBEDDING

START_SECONDS = 5.0
STEP_SECONDS = 0.05
STORE_SECONDS = 0.01
TICK_SECONDS = 0.2
LONGEST_RUN_SECONDS = 100_000.0
REFUSED = c.Stop()
"""Takes the place of rounds that came too late."""


@dataclass
class Process:
    """One actor's process.

    Attributes:
        node: that it is on.
        actor: answers calls.
        waiting: calls of each lane; the first is under way.
        begun: when the first call of each lane was begun.
        ready: whether it has answered anything.
        hangs: whether it answers nothing more.
        stopped: whether it begins no further step.
    """

    node: str
    actor: Any
    waiting: dict[str, deque] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    ready: bool = False
    hangs: bool = False
    stopped: bool = False


class World:
    """Runs one core to its end.

    Args:
        plan: of the run.
        make_actor: (slot, node) → an actor; `actor.answer(request)` is the reply to a request.
        store: does a storage task; returns whether it completed a checkpoint.
        start: what an earlier process left.
        cores: of the cluster.
    """

    def __init__(self, plan, make_actor, store, start, cores=2):
        self.now = 1000.0
        self.cores = cores
        self.run = Run(plan, place_run(plan.config, Resources(cores, 0)), start, self.now)
        self.make_actor, self.store = make_actor, store
        self.processes = {}
        self.records = []
        self.records_flushed = 0
        self.seen = []
        self.store_fails = False
        self.store_seconds = STORE_SECONDS
        self.step_seconds = {}
        self.evaluation_seconds = 0.001
        self.no_room_for = set()
        self.leaving_nodes = frozenset()
        self._agenda, self._order = [], count()

    def at(self, seconds, do):
        """Do something so many seconds from now; it may return events."""
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), do))

    def train(self, seconds=None):
        """Turn the world until the run ends, or for so long; return its end, or None: its process is gone."""
        events, until = [], LONGEST_RUN_SECONDS if seconds is None else self.now + seconds
        while self.now < until:
            for command in self.run.decide(events, self.now):
                self.seen.append(command)
                if isinstance(command, c.End):
                    return command
                self._carry_out(command)
            events = self._next_events()
        assert seconds is not None, "the run did not end"
        return None

    def _next_events(self):
        """What happens next: all that falls on one moment, or nothing for the length of a tick."""
        tick = self.now + TICK_SECONDS
        if not self._agenda or self._agenda[0][0] > tick:
            self.now = tick
            return []
        self.now, events = max(self.now, self._agenda[0][0]), []
        while self._agenda and self._agenda[0][0] <= self.now:
            events += heapq.heappop(self._agenda)[2]() or []
        return events

    # What is known

    def log(self, record):
        self.records.append(record)

    def records_of(self, kind):
        return of_kind(self.records, kind)

    def steps_written(self):
        """Steps that are written down, by stage; more than the run has where something is counted twice."""
        done = Counter()
        for each in self.records_of(RoundDone):
            done[each.stage] += each.steps
        for each in self.records_of(EmbeddingUpdated):
            done[EMBEDDING] += each.steps
        return done

    def calls_of(self, request):
        """The calls of one type that were made, in their order."""
        return [each for each in self.seen if isinstance(each, c.CallActor) and isinstance(each.request, request)]

    # What faults do

    def kill(self, slot):
        """End the process of a slot."""
        process = next((each for each in self.processes if each.slot == slot), None)
        if process is None:
            return []
        del self.processes[process]
        return [ActorLost(process, "its process was killed")]

    def hang(self, slot):
        """Let the process of a slot, if it has started, answer nothing more."""
        for process, state in self.processes.items():
            state.hangs |= process.slot == slot and state.ready

    def stop(self):
        """Ask the run to stop."""
        return [StopRequested()]

    # Carrying out

    def _carry_out(self, command):
        match command:
            case c.StartActor(process):
                if process.slot not in self.no_room_for:
                    node = f"node-{process.slot.index}"
                    self.processes[process] = Process(node, self.make_actor(process.slot, node))
            case c.KillActor(process):
                self.processes.pop(process, None)
            case c.CallActor(process=process):
                self._call(process, command)
            case c.UseStorage(task):
                self.at(self.store_seconds, lambda: [self._store(task)])
            case c.Log(record):
                self.log(record)
            case c.AskCluster():
                self.at(0, lambda: [ClusterSeen(Resources(self.cores, 0), self.leaving_nodes)])

    def _call(self, process, call):
        if process in self.processes:
            lane = self.processes[process].waiting.setdefault(call.lane, deque())
            lane.append(call)
            if len(lane) == 1:
                self._begin(process, call)

    def _begin(self, process, call):
        state = self.processes[process]
        state.begun[call.lane] = self.now
        if state.stopped and isinstance(call.request, c.Train):
            state.waiting[call.lane][0] = replace(call, request=REFUSED)
        self.at(self._seconds(process.slot, call.request), lambda: self._finish(process, call.lane))

    def _seconds(self, slot, request):
        match request:
            case c.DescribeYourself():
                return START_SECONDS
            case c.Train(key):
                return key.steps * self.step_seconds.get(slot, STEP_SECONDS)
            case c.Evaluate():
                return self.evaluation_seconds
        return 0.001

    def _finish(self, process, lane):
        state = self.processes.get(process)
        if state is None or state.hangs:
            return []
        state.ready = True
        call = state.waiting[lane].popleft()
        if state.waiting[lane]:
            self._begin(process, state.waiting[lane][0])
        return list(events_of(call.call, self._answer(process.slot, state, call.request)))

    def _answer(self, slot, state, request):
        if isinstance(request, c.Stop):
            self._stop_process(slot, state)
        nothing = request is REFUSED or isinstance(request, c.Stop | c.Ping)
        return None if nothing else state.actor.answer(request)

    def _stop_process(self, slot, state):
        """Rounds under way end with the step that is under way."""
        state.stopped = True
        for lane, calls in state.waiting.items():
            if calls and isinstance(calls[0].request, c.Train):
                key = calls[0].request.round
                begun = 1 + int((self.now - state.begun[lane]) / self.step_seconds.get(slot, STEP_SECONDS))
                calls[0] = replace(calls[0], request=c.Train(replace(key, steps=min(begun, key.steps))))

    def _store(self, task):
        if self.store_fails:
            return StorageFailed("no space left on device")
        self.records_flushed = len(self.records)  # the log is written before anything else
        return StorageDone(STORE_SECONDS, self.store(task))
