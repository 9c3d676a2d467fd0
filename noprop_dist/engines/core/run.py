"""One run as a state machine: events in, commands out.

    events                     decide(events, now)                                    commands
    Replied, ActorLost ──────► what came: reports, snapshots, losses, the cluster
    StorageDone/Failed ──────► what is late: actors that hang, storage that fails
    ClusterSeen        ──────► what may be done: start actors, assign stages,    ───► StartActor, CallActor, KillActor
    StopRequested      ──────► send rounds, evaluate, move blocks                ───► UseStorage, Log, AskCluster, End

Every stage has a queue of its own and none waits for another: there is no barrier anywhere. All that is drawn at random
is keyed by (seed, stage, step), so the order in which events come changes no result. A stage whose worker is lost goes
back to its own snapshot and is sent the very same rounds again, while the others go on. Only a learned W_embed makes
stages wait: for its next version.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from noprop_dist.engines.core import recovery
from noprop_dist.engines.core.actor_pool import Absent, ActorPool, ActorSlot, Answer
from noprop_dist.engines.core.assignment import Assignment
from noprop_dist.engines.core.block_workers import BlockWorkers
from noprop_dist.engines.core.commands import (
    CLASSIFIER_WORKER,
    EVALUATOR,
    NO_WORKER,
    AskCluster,
    Command,
    End,
    Evaluate,
    Log,
    Slot,
    Stop,
    Train,
)
from noprop_dist.engines.core.dispatch import Dispatch
from noprop_dist.engines.core.evaluations import Evaluations
from noprop_dist.engines.core.events import (
    ActorLost,
    ClusterSeen,
    Event,
    Heard,
    Replied,
    StopRequested,
    StorageDone,
    StorageFailed,
)
from noprop_dist.engines.core.journal import Journal
from noprop_dist.engines.core.parts import Parts
from noprop_dist.engines.core.placement import Placement
from noprop_dist.engines.core.round_queue import RoundQueue
from noprop_dist.engines.core.snapshots import Snapshots
from noprop_dist.engines.core.stage import StageRun, Stopped
from noprop_dist.engines.core.stopping import Stopping
from noprop_dist.engines.core.watched import Watched
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.inference.score import Scores
from noprop_dist.records import CheckpointCompleted, RunEnded, StageRecovered, WorkerReady
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.embedding import EmbeddingExchange, EmbeddingVersion
from noprop_dist.training.messages import EmbeddingReport, RoundReport, StageFailure, WorkerFacts
from noprop_dist.training.progress import RunProgress, run_progress

CLUSTER_EVERY_SECONDS = 2.0
SLOW_STORAGE_SECONDS = 10.0


@dataclass(frozen=True)
class StartingPoint:
    """What an earlier process left; empty for a new run.

    Attributes:
        snapshots: the newest undamaged one of each stage.
        to_evaluate: steps of complete checkpoints that are not measured yet, rising.
        exchange: of versions of W_embed; None if W_embed is fixed.
        scores: of the checkpoints that are measured; None if checkpoints are kept by their age.
        stop_step: of the checkpoint with which an earlier process decided to end; None if it did not.
        storage_may_be_slow: whether snapshots in between may be left out, so that no stage waits for the storage.
    """

    snapshots: Mapping[Stage, Snapshot]
    to_evaluate: Sequence[int] = ()
    exchange: EmbeddingExchange | None = None
    scores: Scores | None = None
    stop_step: int | None = None
    storage_may_be_slow: bool = False


class Run:
    """One run, from its starting point to its end. `now` is always in monotonic seconds.

    Args:
        plan: of the run.
        placement: of its blocks on the cluster as it is now.
        start: what an earlier process left.
        now: the time.
    """

    def __init__(self, plan: RunPlan, placement: Placement, start: StartingPoint, now: float) -> None:
        self._plan = plan
        self._parts = _parts(plan, start, now)
        self._stopping = Stopping(self._parts)
        self._began_at, self._asked_cluster_at = now, now
        self._error: str | None = None  # ends the run, once all that is here is written
        self._stopped_at: int | None = None
        self._ended = self._storage_is_slow = False
        self._noted = set[str]()
        self._processors = dict[str, None]()
        """What block workers compute on, in the order in which they came."""
        self._workers = BlockWorkers(plan, self._parts, placement, now)
        self._parts.pool.add(CLASSIFIER_WORKER)
        if plan.evaluates:
            self._parts.pool.add(EVALUATOR)

    @property
    def stages(self) -> Watched[Stage, StageRun]:
        """The stages as they are now; may be read from another thread."""
        return self._parts.stages

    @property
    def journal(self) -> Journal:
        return self._parts.journal

    def decide(self, events: Sequence[Event], now: float) -> list[Command]:
        """Take in what has happened since the last call, and say what is to be done.

        Args:
            events: in the order in which they came; none where time alone has passed.
            now: monotonic seconds.
        """
        for event in events:
            self._handle(event, now)
        recovery.lose_silent_actors(self._parts, now)
        self._watch_storage(now)
        if not self._ended:
            self._stop_early()
            if self._stopping.requested:
                self._wind_down(now)
            elif self._busy and self._error is None:
                self._advance(now)
            else:
                self._finish()
        if not self._ended:
            self._parts.snapshots.advance(now)
        commands = self._parts.outbox[:]
        self._parts.outbox.clear()
        return commands

    def progress(self, now: float) -> RunProgress:
        """The progress table; may be called from another thread."""
        rows = [stage_run.row() for stage_run in self.stages.values()]
        waits_for = self._workers.waits_for(now)
        return run_progress(self._plan.total_steps, rows, now - self._began_at, self.journal.news, waits_for)

    # What has happened

    def _handle(self, event: Event, now: float) -> None:
        match event:
            case Replied(call, value):
                for answer in self._parts.pool.answered(call, value, now):
                    self._answered(answer, now)
            case Heard(lines, files):
                self.journal.tell(*lines)
                for name, content in files.items():
                    self._parts.snapshots.write_file(name, content)
            case ActorLost(process, cause, constructor_raised, reason):
                slot = self._parts.pool.slots[process.slot]
                if slot.process == process and slot.wanted and not isinstance(slot.state, Absent):
                    recovery.actor_lost(self._parts, slot, reason, cause, now, constructor_raised=constructor_raised)
            case StorageDone():
                self._stored(event, now)
            case StorageFailed(cause):
                self._storage_failed(cause, now)
            case ClusterSeen(resources, leaving_nodes, own_node_leaves, notes):
                self.journal.tell(*(note for note in notes if note not in self._noted))
                self._noted.update(notes)
                self._nodes_leave(leaving_nodes, now)
                self._workers.fit(resources, now)
                if own_node_leaves:
                    self._hand_over(now)
            case StopRequested():
                self._stopping.request(now)

    def _answered(self, answer: Answer, now: float) -> None:
        """Deal with one reply according to its type."""
        if isinstance(answer.value, WorkerFacts):
            self._ready(self._parts.pool.slots[answer.slot], answer.value)
            return
        if isinstance(answer.value, CheckpointEvaluation):
            self._evaluated(answer.value)
            return
        stage_run = self.stages.get(answer.call.stage) if answer.call.stage is not None else None
        if stage_run is None or stage_run.worker != answer.slot:
            return  # it was stopped, or has left, while this was under way
        match answer.value:
            case RoundReport() as report:
                self._parts.dispatch.gather(report)
                self._reported(stage_run, report, answer, now)
            case (EmbeddingVersion() as version, EmbeddingReport() as report):
                self._parts.dispatch.publish(version)
                self._reported(stage_run, report, answer, now)
            case StageFailure() as failure:
                recovery.stage_failed(self._parts, stage_run, failure, now)
            case Snapshot() as snapshot:
                self._received(stage_run, snapshot, now)
            case None if isinstance(answer.call.request, Train):
                stage_run.queue.round_refused()

    def _ready(self, slot: ActorSlot, facts: WorkerFacts) -> None:
        self.journal.log(WorkerReady(worker=slot.slot.name, incarnation=slot.incarnation, **asdict(facts)))
        if slot.slot.role != "block worker":
            return
        self._parts.assignment.worker_came()
        if facts.processor not in self._processors and self._processors:
            self.journal.tell(
                f"{slot.slot.name} computes on another kind of device ({facts.processor}) than those before "
                f"({', '.join(self._processors)}): what it trains may have other bits"
            )
        self._processors[facts.processor] = None

    def _reported(self, stage_run: StageRun, report: RoundReport | EmbeddingReport, answer: Answer, now: float) -> None:
        lost_at, written = stage_run.lost_at, stage_run.steps_written
        loss = report.loss if isinstance(report, RoundReport) else None
        new = stage_run.reported(report.steps_done, report.steps, report.seconds, loss, now)
        if lost_at is not None:
            self._recovered(stage_run, answer.slot, report.first_step, written, now - lost_at)
        if new:  # a replay of what is written is not written twice
            waited = max(0.0, now - answer.call.since - report.seconds)
            self.journal.log(report.record(worker=answer.slot.name, queue_seconds=waited))

    def _recovered(self, stage_run: StageRun, worker: Slot, step: int, written: int, seconds: float) -> None:
        incarnation = self._parts.pool.slots[worker].incarnation
        self.journal.log(
            StageRecovered(
                stage=stage_run.stage,
                worker=worker.name,
                incarnation=incarnation,
                seconds=seconds,
                step=step,
                replayed_steps=written - step,
            )
        )

    def _received(self, stage_run: StageRun, snapshot: Snapshot, now: float) -> None:
        stage_run.queue.snapshot_received()
        stage_run.saved(snapshot.step)
        # Not newer: a stop came before the round that was to lead to it, or within a replay of it.
        newer = snapshot.step > self._parts.snapshots.newest_step(stage_run.stage)
        if newer and (snapshot.step >= stage_run.steps_written or stage_run.queue.snapshots_at(snapshot.step)):
            self._parts.snapshots.add(snapshot)
        if stage_run.queue.finished or (stage_run.leaving and stage_run.queue.idle):
            self._parts.assignment.let_go(stage_run, now)

    def _evaluated(self, evaluation: CheckpointEvaluation) -> None:
        self._parts.evaluations.measured(evaluation)
        self.journal.news.tell(evaluation.summary())
        for record in evaluation.records():
            self.journal.log(record)
        if self._parts.evaluations.stop_step is None:
            self._parts.snapshots.prune(evaluation.step, self._parts.evaluations.best)

    # Storage

    def _stored(self, event: StorageDone, now: float) -> None:
        if self._parts.snapshots.failing_since is not None:
            self.journal.tell("the run directory can be written again")
        self.journal.tell(*event.news)
        step = self._parts.snapshots.done(event, now)
        if step is None or self._stopped_at is not None:
            return
        self.journal.log(CheckpointCompleted(step=step))
        if self._plan.evaluates:
            recovery.leave_out(self._parts, self._parts.evaluations.add(step))
        else:
            self._parts.snapshots.prune(step, None)

    def _storage_failed(self, cause: str, now: float) -> None:
        since = self._parts.snapshots.failing_since
        timeout = self._plan.config.checkpoint.storage_timeout_seconds
        if since is None:
            self.journal.tell(f"the run directory cannot be written: {cause}; training goes on and it is tried again")
        elif now - since > timeout:
            self._end(
                f"the run directory could not be written for checkpoint.storage_timeout_seconds={timeout:g}: {cause}; "
                "once it can, `noprop-dist resume` continues the run"
            )
        self._parts.snapshots.failed(now)

    def _watch_storage(self, now: float) -> None:
        """Tell of storage that does not answer, and end a run that has waited for it too long."""
        since = self._parts.snapshots.under_way_since
        if since is None:
            self._storage_is_slow = False
            return
        timeout = self._plan.config.checkpoint.storage_timeout_seconds
        if now - since > SLOW_STORAGE_SECONDS and not self._storage_is_slow:
            self._storage_is_slow = True
            self.journal.tell(
                f"the run directory has not answered for {SLOW_STORAGE_SECONDS:.0f} s; training goes on, and a stage "
                "with two unwritten snapshots waits, unless they may be left out"
            )
        if now - since > timeout and not self._stopping.requested:
            self._end(
                f"the run directory did not answer for checkpoint.storage_timeout_seconds={timeout:g}; "
                "once it does, `noprop-dist resume` continues the run"
            )

    # What may be done

    def _advance(self, now: float) -> None:
        self._error = self._workers.check(now)
        self._move_stages(now)
        self._ask_cluster(now)
        self._parts.pool.start_absent(now)
        if self._workers.has_begun:
            self._parts.assignment.assign(now)
        self._workers.give_back(now)
        self._parts.dispatch.send(now, self._may_train_to())
        self._evaluate(now)
        self._check_decisions()

    def _ask_cluster(self, now: float) -> None:
        if now - self._asked_cluster_at >= CLUSTER_EVERY_SECONDS:
            self._asked_cluster_at = now
            self._parts.outbox.append(AskCluster())

    def _evaluate(self, now: float) -> None:
        evaluator = self._parts.pool.slots.get(EVALUATOR)
        takes_on = evaluator is not None and evaluator.ready and not evaluator.leaving
        if takes_on and (step := self._parts.evaluations.next()) is not None:
            self._parts.pool.call(EVALUATOR, Evaluate(step), None, self._parts.engine.stall_timeout_seconds, now)

    def _move_stages(self, now: float) -> None:
        for stage_run, source, target in self._parts.assignment.plan_moves(now):
            self.journal.tell(f"{stage_run.stage.name} moves from {source.name} to {target.name}")
        for slot in self._parts.pool.leaving():
            held = self._parts.assignment.held_by(slot.slot)
            for stage_run in held:
                stage_run.leave()
            if not held and not (slot.slot == EVALUATOR and slot.busy):
                recovery.actor_lost(self._parts, slot, "node_leaving", "its node is leaving the cluster", now)
        for stage_run in self.stages.those("leaving"):
            if stage_run.queue.idle:
                if stage_run.is_beyond(self._parts.snapshots.newest_step(stage_run.stage)):
                    self._parts.dispatch.ask_snapshot(stage_run, now)
                else:
                    self._parts.assignment.let_go(stage_run, now)

    def _nodes_leave(self, node_ids: frozenset[str], now: float) -> None:
        """Let nothing begin any more on nodes that leave: what is done there is snapshotted and goes on elsewhere."""
        for slot in self._parts.pool.nodes_leaving(node_ids):
            self.journal.tell(f"{slot.slot.name} leaves its node, which is about to leave the cluster")
            if slot.slot != EVALUATOR and not self._coupled:  # a shared W_embed knows whole rounds alone
                self._parts.pool.call(slot.slot, Stop(), None, self._parts.engine.grace_seconds, now)

    def _hand_over(self, now: float) -> None:
        """Save all that there is, before the coordinator's own node goes; another coordinator goes on from there."""
        if not self._stopping.requested:
            self.journal.tell("the coordinator's node is about to leave the cluster: another one goes on elsewhere")
            self._stopping.request(now, hand_over=True)

    # The end

    def _may_train_to(self) -> int | None:
        """No stage runs far ahead of a decision on the end of the run; where there will be none, none waits for it."""
        step = self._parts.evaluations.may_train_to(self._plan.checkpoint_steps)
        if step is None or self.stages.those("stopped"):
            return None
        return step

    def _check_decisions(self) -> None:
        """End a run whose next decision cannot be made: going on would make its end a matter of luck."""
        step = self._parts.evaluations.undecided
        if step is not None and not self.stages.those("stopped"):
            self._error = (
                f"the checkpoint of step {step} could not be measured, and training.early_stopping decides by it; "
                "`noprop-dist resume` tries again"
            )

    def _stop_early(self) -> None:
        """Let the checkpoint that decided so be the last; what stages did beyond it does not count."""
        evaluations = self._parts.evaluations
        step = evaluations.stop_step
        if step is None or self._stopped_at is not None or self._stopping.requested:
            return
        self._stopped_at = step
        self.journal.tell(evaluations.why_stopped)
        for stage_run in self.stages.values():
            stage_run.end()
        best = evaluations.best
        assert best is not None
        evaluations.give_up()
        self._parts.snapshots.end_at(step, best)

    @property
    def _busy(self) -> bool:
        if self._stopped_at is not None:
            return False
        if all(stage_run.stopped for stage_run in self.stages.values() if stage_run.stage.is_block) or (
            self._coupled and self.stages.those("stopped")
        ):
            return False
        return bool(self.stages.those("is_left")) or self._parts.snapshots.busy or self._parts.evaluations.busy

    @property
    def _coupled(self) -> bool:
        """Return True if the stages share a learned W_embed."""
        return EMBEDDING in self.stages

    def _finish(self) -> None:
        """End the run once the log is written."""
        if self.journal.unwritten or self._parts.snapshots.busy:
            self._write_the_rest()
            return
        if self._error is not None:
            self._end(self._error)
            return
        behind = [f"{r.stage.name} ({r.state.why})" for r in self.stages.values() if isinstance(r.state, Stopped)]
        without = "no other stage can go on without its gradient of W_embed; all are saved"
        others = without if self._coupled else "all else is trained and saved"
        self._end(f"not trained to the end: {'; '.join(behind)}; {others}" if behind else None)

    def _write_the_rest(self) -> None:
        if not self._parts.snapshots.busy:
            self._parts.snapshots.flush()
            self.journal.unwritten = False

    def _wind_down(self, now: float) -> None:
        """Snapshot every stage where it stands and write all down, within the grace period."""
        self._stopping.advance(now)
        if now < self._stopping.deadline:
            if self._stopping.holds_stages:
                return
            if self.journal.unwritten or self._parts.snapshots.busy:
                self._write_the_rest()
                return
        late = (
            "the last snapshots could not be written before the end of engine.grace_seconds="
            f"{self._parts.engine.grace_seconds:g}; `noprop-dist resume` continues from the ones before"
        )
        self._end(late if self._parts.snapshots.busy else None)

    def _end(self, error: str | None) -> None:
        if self._ended:
            return
        self._ended = True
        stopping = self._stopping.requested
        stopped = stopping and any(not stage_run.queue.finished for stage_run in self.stages.values())
        reached = min(self._parts.snapshots.saved_step(stage) for stage in self.stages)
        step = reached if self._stopped_at is None else self._stopped_at
        if self._stopping.hands_over:  # the run has not ended
            self._parts.outbox.append(End(step, None, stopped=False, handed_over=True))
            return
        self._parts.outbox.append(Log(RunEnded(step=step, stopped=stopped, error=error)))
        self._parts.outbox.append(End(step, None if stopping else self._parts.evaluations.last, stopped, error))


def _parts(plan: RunPlan, start: StartingPoint, now: float) -> Parts:
    engine, outbox = plan.config.engine, list[Command]()
    journal = Journal(outbox)
    journal.news.tell("waiting for room and starting workers")
    pool = ActorPool(outbox, engine.start_timeout_seconds)
    snapshots = Snapshots(
        outbox,
        start.snapshots,
        now,
        plan.snapshot_steps if plan.learns_embedding else None,
        plan.checkpoint_steps,
        all_wanted=start.scores is not None or not start.storage_may_be_slow,
    )
    stages = Watched[Stage, StageRun]()
    for stage in plan.stages:
        stages[stage] = _stage_run(plan, stage, snapshots.newest_step(stage), now, stages.changed)
    assignment = Assignment(stages, pool, snapshots, engine, now)
    dispatch = Dispatch(stages, pool, snapshots, start.exchange, engine, plan.round_steps, plan.most_round_steps)
    evaluations = Evaluations(start.to_evaluate, start.scores, plan.config.checkpoint.num_to_keep)
    evaluations.stop_step = start.stop_step
    return Parts(engine, outbox, journal, stages, pool, snapshots, assignment, dispatch, evaluations)


def _stage_run(plan: RunPlan, stage: Stage, step: int, now: float, changed: Callable[[], None]) -> StageRun:
    round_steps = plan.sync_steps if stage == EMBEDDING else plan.round_steps
    queue = RoundQueue(plan.snapshot_steps, round_steps, plan.config.engine.prefetch, step)
    return StageRun(stage, queue, NO_WORKER if stage.is_block else CLASSIFIER_WORKER, now, changed)
