"""One actor: a process on one or several machines, the calls that it was given, and how it ends."""

from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.actor_pool import CONTROL_LANE
from noprop_dist.records import LossReason
from noprop_dist.simulation.cluster import Cluster, Node
from noprop_dist.simulation.world import Process
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.messages import WorkerFacts

if TYPE_CHECKING:
    from noprop_dist.simulation.actors import SimulatedActors

EXIT_SECONDS = 5.0
"""Ray asks a process to exit, and kills it if it has not done so after this long: one that is stopped cannot."""


def end(process: Process) -> None:
    """End a process as Ray does."""
    if process.paused:
        process.held_up.append(process.die)
        process.world.at(EXIT_SECONDS, process.die)
    else:
        process.die()


@dataclass
class Lost:
    """Takes the place of a reply."""

    cause: str
    constructor_raised: bool = False
    reason: LossReason = "died"


class Actor:
    """One actor: its process, and the calls that it was given.

    Args:
        cluster: that it is on.
        command: that asked for it.
        owner: who is told of it.
        work: does its work; see `Work`.
        members: processes that it consists of.

    Attributes:
        lost: whether its owner's Ray takes it for dead; its process may live on.
        raises: what its next round raises, if anything.
        stuck: lanes whose calls never end.
    """

    def __init__(
        self, cluster: Cluster, command: c.StartActor, owner: "SimulatedActors", work: Any, members: int
    ) -> None:
        self.cluster = cluster
        self.incarnation = command.process
        self.place, self.avoided_node = command.place, command.avoided_node
        self.owner = owner
        self.work = work
        self.size = members
        self.members: list[Node] = []
        number = command.process.number
        self.process = Process(cluster.world, f"{command.process.slot.name}#{number} of {owner.process.name}")
        self.process.at_death.append(self._release)
        self.slowness = 1.0
        self.stopped = False
        self._cut: dict[str, int] = {}
        self.answered = self.lost = False
        self.raises: str | None = None
        self.stuck: set[str] = set()
        self._lanes: dict[str, deque[c.CallActor]] = {}
        self._begun: dict[str, float] = {}

    @property
    def node(self) -> str:
        return self.members[0].name if self.members else ""

    @property
    def lanes(self) -> list[str]:
        """Those that work was sent to."""
        return [lane for lane in self._lanes if lane != CONTROL_LANE]

    # Where it is

    def placed(self, members: list[Node]) -> None:
        """It has its room; its process starts."""
        self.members = members
        if self.place is not None:
            for node in members:
                node.take(self.place)
        world = self.cluster.world
        world.at(self.cluster.pace.start * world.luck.uniform(0.7, 1.5), self._started)

    def _started(self) -> None:
        if not self.process.alive:
            return
        if self.process.paused:
            self.process.held_up.append(self._started)
            return
        if self.cluster.broken_constructors and self.cluster.broken_constructors.pop(self.incarnation.slot, False):
            self.process.die()
            self.owner.lose(self, Lost("RuntimeError('made to fail')", constructor_raised=True), 0.0)
            return
        self.answered = True
        for lane in list(self._lanes):
            self._begin(lane)

    def _release(self) -> None:
        for node in self.members:
            if self.place is not None and node.alive:
                node.take(self.place, -1)
        self.cluster.gone(self)

    # What it does

    def call(self, call: c.CallActor) -> None:
        lane = self._lanes.setdefault(call.lane, deque())
        lane.append(call)
        if len(lane) == 1 and self.answered:
            self._begin(call.lane)

    def _begin(self, lane: str) -> None:
        request, world = self._lanes[lane][0].request, self.cluster.world
        self._begun[lane] = world.now
        if isinstance(request, c.Train):
            seconds = 0.0 if self.stopped else request.round.steps * self.step_seconds
        elif isinstance(request, c.Evaluate):
            self.process.start(lambda: self._evaluate(lane, request.step))
            return
        else:
            seconds = 0.002
        number = self._lanes[lane][0].call
        world.at(seconds, lambda: self._finish_call(lane, number))

    def _finish_call(self, lane: str, number: int) -> None:
        """Finish a call, unless it was cut short."""
        calls = self._lanes[lane]
        if calls and calls[0].call == number:
            self._finish(lane)

    @property
    def step_seconds(self) -> float:
        return self.cluster.pace.step * self.slowness

    def _evaluate(self, lane: str, step: int) -> None:
        """Read a checkpoint; it takes as long as the store does."""
        world = self.cluster.world
        world.sleep(self.cluster.evaluation_seconds * self.slowness)
        try:
            answer = self.work.evaluate(self.process, step)
        except Exception as error:  # as Ray has it: what a method raises becomes the answer of its call
            answer = Lost(repr(error))
        self._finish(lane, answer)

    def _finish(self, lane: str, answer: Any = None) -> None:
        process = self.process
        if not process.alive or lane in self.stuck:
            return
        if process.paused:
            process.held_up.append(lambda: self._finish(lane, answer))
            return
        calls = self._lanes[lane]
        call = calls.popleft()
        if answer is None:
            answer = self._answer(call)
        if calls:
            self._begin(lane)
        if not self.lost:
            self.owner.answered(self, call.call, answer)

    def _answer(self, call: c.CallActor) -> Any:
        match call.request:
            case c.Train(key):
                return self._train(key, call.lane)
            case c.DescribeYourself():
                on_gpu = self.place is not None and self.place.gpus > 0
                others = tuple(node.name for node in self.members[1:])
                device, processor = "cuda:0" if on_gpu else "cpu", self.members[0].processor
                return WorkerFacts("host", self.node, 1, device, processor, replica_node_ids=others)
            case c.Stop():
                return self._stop()
            case c.Ping():
                return None
        return self.work.answer(call.request)

    def _train(self, key: RoundKey, lane: str) -> Any:
        if self.raises is not None:
            cause, self.raises = self.raises, None
            return Lost(cause)
        if self.stopped:
            if lane not in self._cut:
                return None
            key = replace(key, steps=self._cut.pop(lane))
        return self.work.train(key, key.steps * self.step_seconds)

    def _stop(self) -> None:
        """Rounds under way end with the step that is under way; a group's are done to their end."""
        self.stopped = True
        for lane, calls in self._lanes.items():
            request = calls[0].request if calls else None
            if lane != CONTROL_LANE and isinstance(request, c.Train):
                steps = request.round.steps
                world, number = self.cluster.world, calls[0].call
                begun = 1 + int((world.now - self._begun[lane]) / self.step_seconds)
                self._cut[lane] = cut = steps if self.size > 1 else min(begun, steps)
                if cut < steps:
                    left = self._begun[lane] + cut * self.step_seconds - world.now
                    world.at(left, partial(self._finish_call, lane, number))

    # How it ends

    def die(self, cause: str, told: float, reason: LossReason = "died") -> None:
        """End its process; its owner is told after `told` seconds."""
        if self.process.alive:
            self.process.die()
            self.owner.lose(self, Lost(cause, reason=reason), told)

    def end(self) -> None:
        """Ray ends its process; it does not reach one whose node is cut off."""
        if all(node.alive for node in self.members[:1]):
            end(self.process)

    def lose_node(self, node: Node, outlived: float, told: float) -> None:
        """One of its nodes is gone: see `Cluster.lose_node`. A group notices at once that one of it is missing."""
        if node is not self.members[0] and self.answered:
            self.raises = "a replica is gone"
            return
        if outlived <= 0.0:
            self.process.die()
        elif outlived < inf:
            self.cluster.world.at(outlived, self.process.die)
        self.owner.lose(self, Lost("its node died", reason="node_died"), told)
