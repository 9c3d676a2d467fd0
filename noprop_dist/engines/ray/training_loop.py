"""The loop that keeps every stage busy: rounds out, reports and snapshots in.

             rounds (≤ prefetch a stage)               snapshots               checkpoint whole
    stream ────────────────────────────► workers ─────────────────► keeper ───────────────────► evaluator
      ▲                                     │ reports             (memory, and                     │
      └──────────── StageQueue ◄────────────┤                      run directory)          figures │
                                            ▼                                                      ▼
                              metrics.jsonl, progress table, Prometheus ◄──────────────────────────┘

Every stage has a queue of its own and none waits for another: there is no barrier anywhere. The loop takes
whichever reply comes first. All that is drawn at random is keyed by (seed, stage, step), so the order in which
replies come changes nothing, and a stage whose worker is lost goes back to its own snapshot and is sent the very
same rounds again, while the others go on. Only a learned W_embed makes stages wait: for its next version.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from threading import Event as Flag

from noprop_dist.engines.ray.actors import EVALUATOR
from noprop_dist.engines.ray.dispatcher import Dispatcher
from noprop_dist.engines.ray.evaluations import Evaluations
from noprop_dist.engines.ray.fleet import Fleet, Lost, Ready, Reply
from noprop_dist.engines.ray.recovery import Recovery
from noprop_dist.engines.ray.recruiter import Recruiter
from noprop_dist.engines.ray.roster import Roster
from noprop_dist.engines.ray.snapshot_keeper import SnapshotKeeper
from noprop_dist.engines.ray.stage import Stage
from noprop_dist.errors import TrainingError
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.training.embedding import EmbeddingVersion
from noprop_dist.training.messages import StageFailure
from noprop_dist.training.progress import RoundReport
from noprop_dist.training.run_log import RunLog
from noprop_dist.training.setup import RunSetup

POLL_SECONDS = 0.2


class TrainingLoop:
    """One use: from the stages it is given to the end of the run, or to where it is told to stop.

    Args:
        setup: of the run.
        stages: by number, each at its newest snapshot.
        fleet: workers of the run.
        recruiter: adds workers when the cluster grows.
        keeper: of the snapshots.
        dispatcher: sends the rounds.
        log: told of every report.
        turned: called at every turn.
    """

    def __init__(
        self,
        setup: RunSetup,
        stages: dict[int, Stage],
        fleet: Fleet,
        recruiter: Recruiter,
        keeper: SnapshotKeeper,
        dispatcher: Dispatcher,
        log: RunLog,
        turned: Callable[[], None],
    ) -> None:
        self._setup = setup
        self._engine = setup.config.engine
        self._stages = stages
        self._fleet = fleet
        self._recruiter = recruiter
        self._keeper = keeper
        self._dispatcher = dispatcher
        self._log = log
        self._turned = turned
        self._roster = Roster(stages, fleet, keeper, self._engine)
        self.evaluations = Evaluations(fleet, self._engine.stall_timeout_seconds)
        self._recovery = Recovery(self._engine, stages, fleet, keeper, log, self._roster, self.evaluations)

    def run(self, stop: Flag) -> CheckpointEvaluation | None:
        """Train every stage to its end; what cannot go on is left behind, and the others are finished.

        Args:
            stop: once it is set, every stage is snapshotted where it stands, and the loop ends.

        Returns:
            The figures of the last checkpoint; None where nothing is evaluated, or it was told to stop.

        Raises:
            TrainingError: stages were left behind, no worker ever started, or the storage failed for too long.
        """
        while self._busy and not stop.is_set():
            self._turned()
            self._log.news(*self._recruiter.look())
            self._fleet.replace_lost()
            for stage in self._roster.assign():
                self._log.board.state(stage.number, "starting")
            self._dispatcher.send()
            self.evaluations.send()
            self._take_events()
            self._move_blocks()
        if stop.is_set():
            self._stop()
            return None
        behind = [f"{stage.name} ({stage.stopped})" for stage in self._stages.values() if stage.stopped]
        if behind:
            without = "no other stage can go on without its gradient of W_embed; all are saved"
            others = without if self._coupled else "all else is trained and saved"
            raise TrainingError(f"not trained to the end: {'; '.join(behind)}; {others}")
        return self.evaluations.last

    @property
    def _coupled(self) -> bool:
        """Whether the stages share a learned W_embed."""
        return self._setup.embedding_stage is not None

    @property
    def _busy(self) -> bool:
        blocks = [stage for stage in self._stages.values() if stage.number < self._setup.classifier_stage]
        if all(stage.stopped for stage in blocks):
            return False
        if self._coupled and any(stage.stopped for stage in self._stages.values()):
            return False
        return any(not s.over for s in self._stages.values()) or self._keeper.busy or self.evaluations.busy

    def _take_events(self) -> None:
        for event in self._fleet.poll(POLL_SECONDS):
            match event:
                case Ready(worker, facts):
                    self._log.event("worker", worker=worker.name, incarnation=worker.incarnation, **asdict(facts))
                case Lost():
                    self._recovery.lost(event)
                case Reply():
                    self._take(event)
        whole = self._keeper.poll()
        if whole is not None and self._setup.evaluates and not self._log.evaluated(whole):
            self.evaluations.add(whole)
        elif whole is not None:
            self._keeper.prune(whole)

    def _take(self, reply: Reply) -> None:
        """Deal with one reply according to its type."""
        stage = self._stages[reply.call.stage] if reply.call.stage is not None else None
        if stage is not None and (stage.stopped or stage.worker != reply.worker.name):
            return  # it was stopped, or has left, while this was under way
        match reply.value:
            case RoundReport() as report:
                assert stage is not None
                self._dispatcher.gather(report)
                self._reported(stage, report, reply)
            case (EmbeddingVersion() as version, RoundReport() as report):
                assert stage is not None
                self._dispatcher.publish(version)
                self._reported(stage, report, reply)
            case StageFailure() as failure:
                self._recovery.failed(failure)
            case Snapshot() as snapshot:
                self._snapshot_here(snapshot)
            case CheckpointEvaluation() as evaluation:
                self.evaluations.take(evaluation)
                self._log.evaluation(evaluation)
                self._keeper.prune(evaluation.step)
            case None if reply.call.kind == "train" and stage is not None:
                stage.queue.round_refused()

    def _reported(self, stage: Stage, report: RoundReport, reply: Reply) -> None:
        stage.queue.round_done(report.steps_done)
        stage.recent_step_seconds.append(report.seconds / report.steps)
        if stage.lost_at is not None:
            seconds, stage.lost_at = time.monotonic() - stage.lost_at, None
            self._log.event(
                "recovery",
                stage=stage.name,
                worker=stage.worker,
                incarnation=reply.worker.incarnation,
                seconds=seconds,
                step=report.first_step,
                replayed_steps=stage.reported - report.first_step,
            )
        if report.steps_done > stage.reported:  # a replay of what is written down is not written down twice
            stage.reported = report.steps_done
            waited = time.monotonic() - reply.call.since - report.seconds
            self._log.round(report, worker=reply.worker.name, queue_seconds=max(0.0, waited))
        else:
            self._log.board.state(stage.number, "recovering")

    def _snapshot_here(self, snapshot: Snapshot) -> None:
        stage = self._stages[snapshot.stage]
        stage.queue.snapshot_here()
        self._keeper.add(snapshot)
        if stage.queue.finished or (stage.leaving and stage.queue.idle):
            self._roster.let_go(stage)

    def _move_blocks(self) -> None:
        for moving in self._roster.plan_moves():
            self._log.news(f"{moving.name} moves from {moving.worker} to {moving.home}")
            self._log.board.state(moving.number, "moving")
        for worker in self._fleet.leaving():
            held = self._roster.held_by(worker)
            for stage in held:
                stage.leaving = True
            if not held:
                self._recovery.lost(self._fleet.lose(worker, "node_leaving", "its node is leaving the cluster"))
        for stage in self._stages.values():
            if stage.leaving and stage.worker is not None and stage.queue.idle:
                if stage.queue.steps_done > self._keeper.latest_step(stage.number):
                    self._dispatcher.ask_snapshot(stage)
                else:
                    self._roster.let_go(stage)

    def _stop(self) -> None:
        """Snapshot every stage where it stands and write all down, within the grace period."""
        deadline = time.monotonic() + self._engine.grace_seconds
        for worker in self._fleet.workers.values():
            if worker.ready and worker.name != EVALUATOR:
                self._fleet.call(worker, "stop", self._engine.grace_seconds)
        asked: set[int] = set()
        while time.monotonic() < deadline and (held := [s for s in self._stages.values() if s.worker is not None]):
            self._take_events()
            for stage in held:
                # Not in the middle of a replay: its records end elsewhere, and the older snapshot is as good. Nor where
                # W_embed is learned: the stages can only go on from a step that all of them have a snapshot of.
                saved = self._keeper.latest_step(stage.number)
                news = not self._coupled and saved < stage.queue.steps_done >= stage.reported
                if stage.worker is None or not stage.queue.idle:
                    continue
                if news and stage.number not in asked:
                    asked.add(stage.number)
                    stage.leaving = True  # it goes once its snapshot is here
                    self._dispatcher.ask_snapshot(stage)
                else:
                    self._roster.forget(stage)
        if not self._keeper.close(max(1.0, deadline - time.monotonic())):
            raise TrainingError(
                "the last snapshots could not be written before the end of engine.grace_seconds="
                f"{self._engine.grace_seconds:g}; `noprop-dist resume` continues from the ones before"
            )

    def outcome_step(self) -> int:
        """The step that every stage has reached and saved."""
        return min(self._keeper.latest_step(number) for number in self._stages)
