"""The loop that keeps every stage busy: rounds out, reports and snapshots in.

             rounds (≤ prefetch a stage)              snapshots             manifest complete
    stream ────────────────────────────► workers ───────────────► writer ────────────────────► evaluator
      ▲                                     │ reports            (thread)                          │
      └──────────── StageQueue ◄────────────┤                                              figures │
                                            ▼                                                      ▼
                              metrics.jsonl, progress table, Prometheus ◄──────────────────────────┘

Every stage has a queue of its own and none waits for another: there is no barrier anywhere. The loop takes
whichever reply comes first. All that is drawn at random is keyed by (seed, stage, step), so the order in which
replies come changes nothing.
"""

import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayActorError, RayError, RayTaskError

from noprop_dist.distributed.cluster import cause_of_loss
from noprop_dist.distributed.messages import StageFailure, WorkerFacts
from noprop_dist.distributed.stage_queue import StageQueue
from noprop_dist.distributed.workers import ActorHandle, Workers
from noprop_dist.errors import TrainingError
from noprop_dist.metrics.exporter import MetricsExporter
from noprop_dist.storage.checkpoints import CheckpointWriter
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.training.progress import RoundReport
from noprop_dist.training.run_log import RunLog
from noprop_dist.training.setup import RunSetup

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Call:
    """A call under way: what was asked, of which actor, and since when (monotonic seconds)."""

    kind: Literal["facts", "restore", "train", "snapshot", "evaluate"]
    actor: str
    since: float


class TrainingLoop:
    """One use: from the snapshots it is given to the last checkpoint.

    Args:
        setup: of the run.
        workers: its actors.
        labels: of the training split, (N,).
        directory: of the run.
        log: told of every report.
        exporter: likewise, where there is one.
    """

    def __init__(
        self,
        setup: RunSetup,
        workers: Workers,
        labels: NDArray[np.int64],
        directory: RunDirectory,
        log: RunLog,
        exporter: MetricsExporter | None,
    ) -> None:
        self._setup = setup
        self._workers = workers
        self._stream = setup.batch_stream(labels)
        self._checkpoints = CheckpointWriter(directory, setup.file_names(), setup.config.checkpoint.num_to_keep)
        self._log = log
        self._exporter = exporter
        self._queues: dict[int, StageQueue] = {}
        self._calls: dict[Any, Call] = {}
        self._writer = ThreadPoolExecutor(1, "checkpoint-writer")
        self._writes: dict[Future[bool], Snapshot] = {}
        self._to_evaluate: deque[int] = deque()
        self._evaluation: CheckpointEvaluation | None = None
        self._last_reply = time.monotonic()

    def run(self, snapshots: Mapping[int, Snapshot]) -> CheckpointEvaluation | None:
        """Train every stage from its snapshot (or from step 0) to the end.

        Returns:
            The figures of the last checkpoint; None where nothing is evaluated.

        Raises:
            TrainingError: a stage failed, an actor was lost or did not answer in time.
        """
        for actor, handle in self._workers.actors.items():
            self._call("facts", actor, handle.facts.remote())
        for stage in self._setup.stages:
            self._open_queue(stage, snapshots.get(stage))
        with self._writer:
            while any(queue.busy for queue in self._queues.values()) or self._calls or self._writes:
                self._send_rounds()
                self._take_replies()
                self._take_writes()
                self._send_evaluation()
        return self._evaluation

    def _open_queue(self, stage: int, snapshot: Snapshot | None) -> None:
        engine = self._setup.config.engine
        done = 0
        if snapshot is not None:
            done = snapshot.step
            self._ask("restore", stage, self._handle(stage).restore.remote(snapshot))
        self._queues[stage] = StageQueue(self._setup.checkpoint_steps, engine.round_steps, engine.prefetch, done)

    def _send_rounds(self) -> None:
        for stage, queue in self._queues.items():
            while (work := queue.next_round()) is not None:
                handle = self._handle(stage)
                self._ask("train", stage, handle.train.remote(self._stream.round(stage, *work)))
                if queue.at_checkpoint:  # an actor does its calls in order: this is the state right after the round
                    self._ask("snapshot", stage, handle.snapshot.remote(stage))

    def _take_replies(self) -> None:
        ready, waiting = ray.wait(list(self._calls), timeout=POLL_SECONDS) if self._calls else ([], [])
        if waiting and ready:
            ready += ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        for reference in ready:
            call = self._calls.pop(reference)
            self._last_reply = time.monotonic()
            self._take(call, self._value(call, reference))
        self._check_timeouts()

    def _take(self, call: Call, value: Any) -> None:
        """Deal with one reply according to its type."""
        match value:
            case WorkerFacts():
                self._log.worker(call.actor, asdict(value))
            case RoundReport():
                self._queues[value.stage].round_done()
                self._log.round(value)
                if self._exporter is not None:
                    self._exporter.round(value)
            case StageFailure():
                name = self._setup.stage_name(value.stage)
                self._log.failure(name, value.step, value.trace)
                raise TrainingError(
                    f"{name} failed in the round from step {value.step}: {value.cause} "
                    "(the worker's traceback is in metrics.jsonl)"
                )
            case Snapshot():
                self._log.flush()  # no checkpoint without the records of the steps that lead to it
                self._writes[self._writer.submit(self._checkpoints.add, value)] = value
            case CheckpointEvaluation():
                self._evaluation = value
                self._log.evaluation(value)
                if self._exporter is not None:
                    self._exporter.evaluation(value)
                self._writer.submit(self._checkpoints.prune, value.step)

    def _take_writes(self) -> None:
        for future in [future for future in self._writes if future.done()]:
            snapshot = self._writes.pop(future)
            try:
                complete = future.result()
            except OSError as error:
                raise TrainingError(f"the checkpoint of step {snapshot.step} cannot be written: {error}") from error
            self._queues[snapshot.stage].snapshot_saved()
            if complete and self._setup.evaluates:
                self._to_evaluate.append(snapshot.step)
            elif complete:
                self._writer.submit(self._checkpoints.prune, snapshot.step)

    def _send_evaluation(self) -> None:
        """One evaluation at a time, in the order of steps; a checkpoint that waits for its own is not deleted."""
        if self._to_evaluate and not any(call.kind == "evaluate" for call in self._calls.values()):
            step = self._to_evaluate.popleft()
            self._log.board.note = f"evaluating the checkpoint of step {step}"
            self._call("evaluate", "evaluator", self._workers.evaluator.evaluate.remote(step))

    def _handle(self, stage: int) -> ActorHandle:
        return self._workers.actors[self._workers.of_stage[stage]]

    def _ask(self, kind: Literal["restore", "train", "snapshot"], stage: int, reference: Any) -> None:
        self._call(kind, self._workers.of_stage[stage], reference)

    def _call(self, kind: Any, actor: str, reference: Any) -> None:
        self._calls[reference] = Call(kind, actor, time.monotonic())

    def _value(self, call: Call, reference: Any) -> Any:
        try:
            return ray.get(reference)
        except RayTaskError as error:
            raise TrainingError(f"{call.actor}: {call.kind} failed: {error.cause!r}") from error
        except RayActorError as error:
            raise TrainingError(f"{call.actor} was lost: {cause_of_loss(error)}") from error
        except RayError as error:
            raise TrainingError(f"{call.actor}: {call.kind} got no reply: {error}") from error

    def _check_timeouts(self) -> None:
        engine, now = self._setup.config.engine, time.monotonic()
        for call in self._calls.values():
            if call.kind == "facts" and now - call.since > engine.start_timeout_seconds:
                raise TrainingError(
                    f"{call.actor} did not start within engine.start_timeout_seconds={engine.start_timeout_seconds:g}: "
                    "the cluster has no room for it, or its process cannot start"
                )
        if self._calls and now - self._last_reply > engine.stall_timeout_seconds:
            silent = ", ".join(sorted({call.actor for call in self._calls.values()}))
            raise TrainingError(
                f"no reply within engine.stall_timeout_seconds={engine.stall_timeout_seconds:g} from {silent}"
            )
