"""Runs of the engine on workers of the coordinator's own process, which do nothing: what is left is the coordinator.

Core, records and run directory are the real ones. There is no Ray, no message, and no process but this one.
"""

import heapq
import tempfile
import time
from collections.abc import Sequence
from functools import partial

from noprop_dist.bench.idle import NoopWorker, idle_config
from noprop_dist.engines.command_runner import CommandRunner
from noprop_dist.engines.coordination import collect_seldom, enter, follow_core, placement_of, take_over
from noprop_dist.engines.core.commands import METHODS, CallActor, Incarnation, StartActor, Train, arguments_of
from noprop_dist.engines.core.events import ClusterSeen, Event, Replied
from noprop_dist.engines.core.placement import Resources
from noprop_dist.engines.core.run import Run
from noprop_dist.engines.storage_thread import StorageThread
from noprop_dist.machine import HERE
from noprop_dist.records import Record
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.setup import prepare

NO_CALL_SECONDS = 0.002
"""To wait where no call is under way: it is the storage that works."""


class SimulatedWorkers:
    """The processes of a run, in this one. Each does one call after the other.

    Args:
        round_seconds: that a round takes.
    """

    def __init__(self, round_seconds: float) -> None:
        self._round_seconds = round_seconds
        self._workers: dict[Incarnation, NoopWorker] = {}
        self._free_at: dict[tuple[Incarnation, str], float] = {}
        self._calls: list[tuple[float, int, CallActor]] = []
        """With the time at which each is answered, the next one first."""

    def start(self, command: StartActor) -> None:
        self._workers[command.process] = NoopWorker()

    def call(self, command: CallActor) -> None:
        lane, takes = (command.process, command.lane), isinstance(command.request, Train) * self._round_seconds
        self._free_at[lane] = max(time.monotonic(), self._free_at.get(lane, 0.0)) + takes
        heapq.heappush(self._calls, (self._free_at[lane], command.call, command))

    def kill(self, process: Incarnation) -> None:
        del self._workers[process]
        self._calls = [each for each in self._calls if each[2].process != process]
        heapq.heapify(self._calls)

    def events(self, timeout_seconds: float) -> list[Event]:
        wait = min(timeout_seconds, self._calls[0][0] - time.monotonic()) if self._calls else NO_CALL_SECONDS
        if wait > 0:
            time.sleep(wait)
        now, done = time.monotonic(), list[CallActor]()
        while self._calls and self._calls[0][0] <= now:
            done.append(heapq.heappop(self._calls)[2])
        return [self._answered(call) for call in sorted(done, key=lambda call: call.call)]

    def _answered(self, command: CallActor) -> Event:
        method = getattr(self._workers[command.process], METHODS[type(command.request)])
        return Replied(command.call, method(*arguments_of(command.request)))

    def close(self) -> None:
        self._workers.clear()


def simulated_records(
    blocks: int, steps: int, workers: int, round_seconds: float, settings: Sequence[str] = ()
) -> list[Record]:
    """The records of a run of digits on simulated workers.

    Args:
        blocks: T.
        steps: of each.
        workers: that hold them.
        round_seconds: that each takes for a round.
        settings: further ones.
    """
    setup, _ = prepare(idle_config(blocks, steps, workers, settings))
    cluster = Resources(workers, 0)
    with tempfile.TemporaryDirectory(prefix="noprop-dist-bench-") as folder:
        directory = RunDirectory(f"{folder}/run")
        placement = placement_of(setup.plan, directory, cluster, resume=False)
        enter(setup.plan, directory, resume=False)
        taken = take_over(setup, directory)
        run = Run(setup.plan, placement, taken.start, HERE.monotonic())
        storage = StorageThread(taken.checkpoints, taken.log, directory)
        runner = CommandRunner(SimulatedWorkers(round_seconds), storage, partial(ClusterSeen, cluster, frozenset()))
        collect_seldom()
        try:
            follow_core(run, runner, HERE, lambda: False, lambda _: None)
        finally:
            runner.close(setup.config.engine.grace_seconds)
        return directory.metrics()
