"""The actors of one run on Ray: starts, calls and kills them as the core says, and makes events of what happens."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from noprop_dist.data.dataset import DataSet
from noprop_dist.engines.core.actor_pool import CONTROL_LANE, MAIN_LANE, lane_name
from noprop_dist.engines.core.commands import (
    CLASSIFIER_WORKER,
    EVALUATOR,
    METHODS,
    CallActor,
    Incarnation,
    Request,
    StartActor,
    Train,
    arguments_of,
)
from noprop_dist.engines.core.events import ActorLost, Event, events_of
from noprop_dist.engines.core.placement import Placement
from noprop_dist.engines.ray.cluster import cause_of_loss, raised_by_constructor, reason_of_loss, spread
from noprop_dist.engines.ray.replica_worker import BlockGroup
from noprop_dist.engines.ray.spares import SpareProcesses
from noprop_dist.engines.ray.workers import BlockWorker, ClassifierWorker, Evaluator
from noprop_dist.stages import Stage
from noprop_dist.training.batch_stream import Round, RoundKey
from noprop_dist.training.messages import WorkerFacts
from noprop_dist.training.setup import RunSetup

ACTOR_OPTIONS = {"max_restarts": 0, "max_task_retries": 0, "enable_task_events": False}
"""An optimiser step is not idempotent, so Ray may neither restart an actor nor retry a call by itself. Its GCS keeps
no record of single calls: a run's rounds would fill it (100,000 records, some 4 kB each) and tell nothing that
`metrics.jsonl` does not."""
CONTROL_GROUP = {CONTROL_LANE: 1}
NODE_ID_LABEL = "ray.io/node-id"
ActorHandle = Any
"""Ray's actor handles and object references have no static type."""


@dataclass(frozen=True)
class WorkerClasses:
    """The classes of the workers; benchmarks put others in their place."""

    block: type[Any] = BlockWorker
    classifier: type[Any] = ClassifierWorker


class RayActors:
    """The processes of one run. The data set lies in the object store once for all of them.

    Args:
        setup: of the run.
        data: of the run.
        directory: of the run.
        placement: what evaluator and classifier worker ask of the cluster.
        memory_bytes: of its machine that each block worker asks for; 0 for none.
        draw: draws the batches of a round; None if the workers draw.
        classes: of the workers.
    """

    def __init__(
        self,
        setup: RunSetup,
        data: DataSet,
        directory: str,
        placement: Placement,
        memory_bytes: int,
        draw: Callable[[RoundKey], Round] | None,
        classes: WorkerClasses,
    ) -> None:
        self._setup = setup
        self._inputs, self._labels = ray.put(data.train.inputs), ray.put(data.train.labels)
        self._held_out = ray.put(data.held_out)
        self._directory = directory
        self._side = {"num_cpus": 0, "num_gpus": placement.side_gpus, **ACTOR_OPTIONS}
        self._memory_bytes = memory_bytes
        self._draw = draw
        self._classes = classes
        self._handles: dict[Incarnation, ActorHandle] = {}
        self._calls: dict[Any, CallActor] = {}
        self._spares = SpareProcesses(setup.config.engine.spare_processes)
        self._spares.started(ray.get_runtime_context().get_node_id(), time.monotonic())
        self._woken = threading.Event()
        self._has_answered: dict[Incarnation, bool] = {}
        self._held_back: list[StartActor | CallActor] = []
        self.sent_bytes = Counter[Stage]()

    def start(self, command: StartActor) -> None:
        """Start a process; it is ready once it answers.

        Classifier worker and evaluator have little to do and import as much as a block worker. They are started once a
        block worker is ready, which would share its cores with them until then.
        """
        if command.place is None:
            self._held_back.append(command)
        else:
            self._start(command)

    def _start(self, command: StartActor) -> None:
        slot = command.process.slot
        if slot == CLASSIFIER_WORKER:
            actor = ray.remote(concurrency_groups=CONTROL_GROUP, **self._side)(self._classes.classifier)
            handle = actor.remote(self._setup, self._labels)
        elif slot == EVALUATOR:
            actor = ray.remote(concurrency_groups=CONTROL_GROUP, **self._side)(Evaluator)
            handle = actor.remote(self._setup, self._held_out, self._directory)
        else:
            handle = self._block_worker(command)
            self._has_answered[command.process] = False
        self._handles[command.process] = handle

    def _block_worker(self, command: StartActor) -> ActorHandle:
        place, lanes = command.place, command.lanes
        assert place is not None
        side_by_side = {lane_name(number): 1 for number in range(lanes)} if lanes > 1 else {}
        groups = {"concurrency_groups": CONTROL_GROUP | side_by_side}
        asked = {"num_cpus": place.cpus, "num_gpus": place.gpus, "memory": self._memory_bytes or None}
        options = {**asked, **spread(), **_not_on(command.avoided_node), **ACTOR_OPTIONS}
        if self._setup.config.training.replicas_per_block > 1:
            group = ray.remote(**groups, **options)(BlockGroup)
            return group.remote(
                self._setup, [self._inputs, self._labels], {"concurrency_groups": CONTROL_GROUP, **options}
            )
        actor = ray.remote(**groups, **options)(self._classes.block)
        return actor.remote(self._setup, self._inputs, self._labels)

    def call(self, command: CallActor) -> None:
        """Call a method of a process."""
        if command.process not in self._handles:
            self._held_back.append(command)
        else:
            self._call(command)

    def _call(self, command: CallActor) -> None:
        method = getattr(self._handles[command.process], METHODS[type(command.request)])
        if command.lane != MAIN_LANE:
            method = method.options(concurrency_group=command.lane)
        self._calls[method.remote(*self._arguments(command.request))] = command

    def _arguments(self, request: Request) -> tuple[Any, ...]:
        if isinstance(request, Train):
            work = request.round if self._draw is None else self._draw(request.round)
            self.sent_bytes[work.stage] += work.nbytes
            return (work,)
        return arguments_of(request)

    def kill(self, process: Incarnation) -> None:
        """End a process; nothing more is heard of it."""
        self._calls = {reference: call for reference, call in self._calls.items() if call.process != process}
        self._held_back = [each for each in self._held_back if each.process != process]
        self._has_answered.pop(process, None)
        if process in self._handles:
            ray.kill(self._handles.pop(process))

    def wake(self) -> None:
        """Let `events` return, if no call is under way that it waits for; called from other threads."""
        self._woken.set()

    def events(self, timeout_seconds: float) -> list[Event]:
        """Wait up to `timeout_seconds` for something to happen; return all that has happened."""
        self._spares.advance(time.monotonic())
        self._start_held_back()
        if not self._calls:
            self._woken.wait(timeout_seconds)
            self._woken.clear()
            return []
        answered, waiting = ray.wait(list(self._calls), timeout=timeout_seconds)
        if answered and waiting:
            answered += ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        in_order = sorted(((each, self._calls.pop(each)) for each in answered), key=lambda pair: pair[1].call)
        return [event for reference, call in in_order for event in self._events_of(reference, call)]

    def _start_held_back(self) -> None:
        if self._has_answered and not any(self._has_answered.values()):
            return
        commands, self._held_back = self._held_back, []
        for command in commands:
            self._start(command) if isinstance(command, StartActor) else self._call(command)

    def _events_of(self, reference: Any, call: CallActor) -> Iterator[Event]:
        try:
            answer = ray.get(reference)
        except RayError as error:
            self._has_answered.pop(call.process, None)
            cause, reason = cause_of_loss(error), reason_of_loss(error)
            yield ActorLost(call.process, cause, raised_by_constructor(error), reason)
            return
        if isinstance(answer, WorkerFacts):
            self._spares.started(answer.node_id, time.monotonic(), again=call.process.number > 1)
        if call.process in self._has_answered:
            self._has_answered[call.process] = True
        yield from events_of(call.call, answer)

    def close(self) -> None:
        """End all processes."""
        self._spares.close()
        self._calls.clear()
        self._held_back.clear()
        for handle in self._handles.values():
            ray.kill(handle)
        self._handles.clear()


def _not_on(node_id: str) -> dict[str, dict[str, str]]:
    """Options of an actor that may go to any node but one, if there are others."""
    if not node_id or all(node["NodeID"] == node_id for node in ray.nodes() if _has_devices(node)):
        return {}
    return {"label_selector": {NODE_ID_LABEL: f"!in({node_id})"}}


def _has_devices(node: Mapping[str, Any]) -> bool:
    return bool(node["Alive"] and (node["Resources"].get("CPU") or node["Resources"].get("GPU")))
