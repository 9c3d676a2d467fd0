"""What happens when a stage fails or an actor is lost: to the stages concerned, and to no others."""

from collections.abc import Mapping, Sequence

from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.core.actors import Absent, ActorPool, ActorSlot, GivenUp
from noprop_dist.engines.core.assignment import Assignment
from noprop_dist.engines.core.commands import EVALUATOR, Command, DescribeYourself, GiveUpStage
from noprop_dist.engines.core.evaluations import Evaluations
from noprop_dist.engines.core.failure_policy import Loss, after_loss
from noprop_dist.engines.core.journal import Journal
from noprop_dist.engines.core.snapshots import Snapshots
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.records import LossReason, StageFailed, WorkerLost
from noprop_dist.stages import Stage
from noprop_dist.training.messages import StageFailure


class Recovery:
    """Applies the failure policy to one run.

    Args:
        stages: of the run.
        pool: of its actors.
        snapshots: of its stages.
        assignment: which stage is where.
        evaluations: one of which a lost evaluator may leave undone.
        journal: told of everything.
        engine: settings, with the budget of failures.
        outbox: where commands are appended.
    """

    def __init__(
        self,
        stages: Mapping[Stage, StageRun],
        pool: ActorPool,
        snapshots: Snapshots,
        assignment: Assignment,
        evaluations: Evaluations,
        journal: Journal,
        engine: EngineSettings,
        outbox: list[Command],
    ) -> None:
        self._stages = stages
        self._pool = pool
        self._snapshots = snapshots
        self._assignment = assignment
        self._evaluations = evaluations
        self._journal = journal
        self._engine = engine
        self._outbox = outbox

    def stage_failed(self, run: StageRun, failure: StageFailure, now: float) -> None:
        """Stop a stage that raised: the same batches would make it raise again."""
        self._journal.log(StageFailed(stage=run.stage, step=failure.step, cause=failure.cause, trace=failure.trace))
        self._stop(run, f"{failure.cause}, in the round from step {run.queue.steps_done}", now)

    def silent_actors(self, now: float) -> None:
        """Treat actors as lost that have not replied for longer than their calls allow."""
        for slot, lane, call in self._pool.overdue(now):
            if isinstance(call.request, DescribeYourself):
                # The cluster may have no room for it. Asking again costs nothing, so it is no loss.
                self._pool.end(slot, Absent(retry_at=now))
                slot.losses_in_row = 0
            else:
                self.actor_lost(slot, "hung", f"it hung: no reply for {call.patience_seconds:.0f} s", now, lane)

    def actor_lost(
        self,
        slot: ActorSlot,
        reason: LossReason,
        cause: str,
        now: float,
        lane: str | None = None,
        constructor_raised: bool = False,
    ) -> None:
        """Do what the failure policy says; only the actor's own stages go back to their snapshots.

        Args:
            slot: whose incarnation is lost.
            reason: how.
            cause: for people.
            now: monotonic seconds.
            lane: that was silent; None if the whole process is gone.
            constructor_raised: whether the actor's constructor raised.
        """
        at_work = self._pool.at_work_on(slot, lane)
        run = self._stages[at_work] if at_work is not None else None
        failures = run.failures if run is not None and not run.over else None
        loss = Loss(reason, cause, constructor_raised, slot.losses_in_row, failures)
        decision = after_loss(loss, self._engine.max_failures)
        self._tell_of(slot, loss, at_work, again=decision.restart_after_seconds is not None)
        self._assignment.worker_lost(slot, now)
        slot.losses_in_row += 1
        after = decision.restart_after_seconds
        self._pool.end(slot, GivenUp(cause) if after is None else Absent(retry_at=now + after))
        if slot.slot == EVALUATOR:
            self._leave_out(self._evaluations.evaluator_lost())
        if run is not None and decision.charge_stage:
            run.failures += 1
            if decision.stop_stage is not None:
                self._stop(run, decision.stop_stage, now)
        if slot.given_up:
            self._given_up(slot, cause, now)

    def _tell_of(self, slot: ActorSlot, loss: Loss, at_work: Stage | None, again: bool) -> None:
        name = slot.slot.name
        self._journal.log(
            WorkerLost(
                worker=name, incarnation=slot.incarnation, reason=loss.reason, cause=loss.cause, at_work_on=at_work
            )
        )
        then = "a new one is started" if again else "there will be no other"
        self._journal.tell(f"{name} was lost ({loss.cause}); {then}")

    def _given_up(self, slot: ActorSlot, cause: str, now: float) -> None:
        """Leave a slot empty, and stop the stages that no other worker can hold."""
        if slot.slot == EVALUATOR:
            self._leave_out(self._evaluations.give_up())
        for run in self._stages.values():
            if run.waits and not self._assignment.can_hold(run.home):
                self._stop(run, cause, now)

    def _stop(self, run: StageRun, why: str, now: float) -> None:
        """Leave a stage behind; the others go on."""
        if run.stopped:
            return
        kept = self._snapshots.newest_step(run.stage)
        self._journal.tell(f"{run.stage.name} is stopped: {why}; its snapshot of step {kept} is kept, the others go on")
        self._outbox.append(GiveUpStage(run.stage))
        self._assignment.let_go(run, now)
        run.stop(why)

    def _leave_out(self, steps: Sequence[int]) -> None:
        for step in steps:
            self._journal.tell(f"the checkpoint of step {step} was not measured; `noprop-dist evaluate` can")
