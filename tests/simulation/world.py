"""A world on virtual time for `engines.core`: actors that train by hashing, a store, and losses at chosen times.

Everything happens in one thread. The world carries out what the core asks for and moves its own clock to the next
event, so an hour of virtual time takes milliseconds. A stage's weights are a hash chained over the keys of its steps: a
lost, doubled or reordered step changes the final fingerprint.
"""

import hashlib
import heapq
from collections import deque
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from noprop_dist.config.layers import load_config
from noprop_dist.data.dataset import DataFacts
from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.events import ActorLost, ClusterSeen, Replied, StopRequested, StorageDone, StorageFailed
from noprop_dist.engines.core.placement import Resources, place_run
from noprop_dist.engines.core.run import Run, StartingPoint
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.inference.evaluation import Evaluation
from noprop_dist.plan import RunPlan
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.messages import RoundReport, StageFailure, WorkerFacts

START_SECONDS = 5.0
STEP_SECONDS = 0.05
STORE_SECONDS = 0.01
TICK_SECONDS = 0.2
LONGEST_RUN_SECONDS = 100_000.0


def small_plan(*settings):
    """Three blocks, 48 steps of 8 batches an epoch; no data set is loaded."""
    facts = DataFacts("made up", (1, 8, 8), tuple("0123456789"), (0.0,), (1.0,),
                      {"train": 1024, "validation": 100, "test": 100}, "")  # fmt: skip
    small = ["blocks.count=3", "training.max_steps=48", "checkpoint.every_steps=16", "engine.round_steps=4"]
    return RunPlan(load_config("digits", None, [*small, "checkpoint.snapshot_every_steps=8", *settings]), facts)


@dataclass
class Process:
    """One actor's process: the calls that wait in each lane, and the states of the stages that it holds."""

    node: str
    waiting: dict[str, deque] = field(default_factory=dict)
    chains: dict = field(default_factory=dict)
    hangs: bool = False
    told_to_stop: bool = False


class World:
    """Runs one core to its end.

    Args:
        plan: of the run.
        cores: of the cluster.
        start: what an earlier process left.
    """

    def __init__(self, plan, cores=2, start=None):
        self.plan = plan
        self.now = 1000.0
        self.cores = cores
        self.run = Run(plan, place_run(plan.config, Resources(cores, 0)), start or StartingPoint({}), self.now)
        self.processes = {}
        self.records = []
        self.saved = {}
        self.seen = []
        self.store_fails = False
        self.no_room_for = set()
        self.leaving_nodes = frozenset()
        self._agenda, self._order = [], count()

    def at(self, seconds, do):
        """Do something so many seconds from now."""
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), do))

    def train(self):
        """Turn the world until the run ends; return its end."""
        events = []
        while self.now < LONGEST_RUN_SECONDS:
            for command in self.run.decide(events, self.now):
                self.seen.append(command)
                if isinstance(command, c.End):
                    return command
                self._carry_out(command)
            events = self._next_events()
        raise AssertionError("the run did not end")

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

    # What faults do

    def kill(self, slot):
        """End the process of a slot."""
        process = next((each for each in self.processes if each.slot == slot), None)
        if process is None:
            return []
        del self.processes[process]
        return [ActorLost(process, "its process was killed")]

    def hang(self, slot):
        """Let the process of a slot answer nothing more."""
        next(state for process, state in self.processes.items() if process.slot == slot).hangs = True

    def stop(self):
        """Ask the run to stop."""
        return [StopRequested()]

    # Carrying out

    def _carry_out(self, command):
        match command:
            case c.StartActor(process):
                if process.slot not in self.no_room_for:
                    self.processes[process] = Process(f"node-{process.slot.index}")
            case c.KillActor(process):
                self.processes.pop(process, None)
            case c.CallActor(process=process):
                self._call(process, command)
            case c.UseStorage(task):
                self.at(STORE_SECONDS, lambda: [self._store(task)])
            case c.Log(record):
                self.records.append(record)
            case c.AskCluster():
                self.at(0, lambda: [ClusterSeen(Resources(self.cores, 0), self.leaving_nodes)])

    def _call(self, process, call):
        if process in self.processes:
            lane = self.processes[process].waiting.setdefault(call.lane, deque())
            lane.append(call)
            if len(lane) == 1:
                self._begin(process, call)

    def _begin(self, process, call):
        self.at(self._seconds(call.request), lambda: self._finish(process, call))

    def _seconds(self, request):
        match request:
            case c.DescribeYourself():
                return START_SECONDS
            case c.Train(key):
                return key.steps * STEP_SECONDS
        return 0.001

    def _finish(self, process, call):
        state = self.processes.get(process)
        if state is None or state.hangs:
            return []
        lane = state.waiting[call.lane]
        lane.popleft()
        if lane:
            self._begin(process, lane[0])
        return [Replied(call.call, self._answer(state, call.request))]

    def _answer(self, process, request):
        match request:
            case c.DescribeYourself():
                return WorkerFacts("host", process.node, 1, "cpu")
            case c.Hold(stage, snapshot):
                process.chains[stage] = (
                    (0, b"") if snapshot is None else (snapshot.step, snapshot.weights["chain"].tobytes())
                )
            case c.Release(stage):
                process.chains.pop(stage, None)
            case c.Train(key):
                return self._trained(process, key)
            case c.TakeSnapshot(stage):
                return _snapshot(stage, *process.chains[stage])
            case c.Evaluate(step):
                result = Evaluation(0.5, 0.5, "mean", 1, 10)
                return CheckpointEvaluation(step, step == self.plan.total_steps, (("test", result),), None)
            case c.Stop():
                process.told_to_stop = True
        return None

    def _trained(self, process, key):
        if process.told_to_stop:
            return None
        done, chain = process.chains[key.stage]
        if key.first_step != done:
            return StageFailure(key.stage, key.first_step, f"RuntimeError: has done {done} steps", "")
        for step in range(key.first_step, key.first_step + key.steps):
            chain = hashlib.sha256(chain + f"{key.stage.name}|{step}".encode()).digest()
        process.chains[key.stage] = (done + key.steps, chain)
        return RoundReport(key.stage, key.first_step, key.steps, 1.0, 1.0, 1.0, key.steps * STEP_SECONDS)

    def _store(self, task):
        if self.store_fails:
            return StorageFailed("no space left on device")
        complete = False
        if isinstance(task, c.WriteSnapshot):
            snapshot = task.snapshot
            saved = self.saved.setdefault(snapshot.step, {})
            saved[snapshot.stage] = snapshot
            complete = snapshot.step in self.plan.checkpoint_steps and len(saved) == len(self.plan.stages)
        return StorageDone(STORE_SECONDS, complete)


def _snapshot(stage, step, chain):
    return Snapshot(stage, step, {"chain": np.frombuffer(chain, dtype=np.uint8)}, {}, "{}")


def fingerprints(world):
    """SHA-256 of every stage's weights at the end of the run."""
    return {stage: snapshot.fingerprint() for stage, snapshot in world.saved[world.plan.total_steps].items()}
