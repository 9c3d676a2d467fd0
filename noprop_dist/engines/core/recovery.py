"""What happens when a stage fails or an actor is lost: to the stages concerned, and to no others."""

from collections.abc import Sequence

from noprop_dist.engines.core.actors import Absent, ActorSlot, GivenUp
from noprop_dist.engines.core.commands import EVALUATOR, DescribeYourself, GiveUpStage
from noprop_dist.engines.core.failure_policy import Loss, after_loss
from noprop_dist.engines.core.parts import Parts
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.records import LossReason, StageFailed, WorkerLost
from noprop_dist.stages import Stage
from noprop_dist.training.messages import StageFailure


def stage_failed(parts: Parts, run: StageRun, failure: StageFailure, now: float) -> None:
    """A stage raised: the same batches would only make it raise again."""
    parts.journal.log(StageFailed(stage=run.stage, step=failure.step, cause=failure.cause, trace=failure.trace))
    _stop(parts, run, f"{failure.cause}, in the round from step {run.queue.steps_done}", now)


def lose_silent_actors(parts: Parts, now: float) -> None:
    """Lose the actors that have not replied for too long."""
    for slot, lane, call in parts.pool.overdue(now):
        if isinstance(call.request, DescribeYourself):
            # Perhaps there is no room for it; asking again is free.
            parts.pool.end(slot, Absent(retry_at=now))
            slot.losses_in_row = 0
        else:
            actor_lost(parts, slot, "hung", f"it hung: no reply for {call.patience_seconds:.0f} s", now, lane)


def actor_lost(
    parts: Parts,
    slot: ActorSlot,
    reason: LossReason,
    cause: str,
    now: float,
    lane: str | None = None,
    constructor_raised: bool = False,
) -> None:
    """Do what the failure policy says; only the actor's own stages go back to their snapshots.

    Args:
        parts: of the run.
        slot: whose incarnation is lost.
        reason: how.
        cause: for people.
        now: monotonic seconds.
        lane: to blame; None where that is not known.
        constructor_raised: whether the actor never came to be.
    """
    at_work = parts.pool.at_work_on(slot, lane)
    run = parts.stages[at_work] if at_work is not None else None
    failures = run.failures if run is not None and not run.over else None
    loss = Loss(reason, cause, constructor_raised, slot.losses_in_row, failures)
    decision = after_loss(loss, parts.engine.max_failures)
    _tell_of(parts, slot, loss, at_work, again=decision.restart_after_seconds is not None)
    parts.assignment.worker_lost(slot, now)
    slot.losses_in_row += 1
    after = decision.restart_after_seconds
    parts.pool.end(slot, GivenUp(cause) if after is None else Absent(retry_at=now + after))
    if slot.slot == EVALUATOR:
        leave_out(parts, parts.evaluations.evaluator_lost())
    if run is not None and decision.charge_stage:
        run.failures += 1
        if decision.stop_stage is not None:
            _stop(parts, run, decision.stop_stage, now)
    if slot.given_up:
        _given_up(parts, slot, cause, now)


def _tell_of(parts: Parts, slot: ActorSlot, loss: Loss, at_work: Stage | None, again: bool) -> None:
    name = slot.slot.name
    parts.journal.log(
        WorkerLost(worker=name, incarnation=slot.incarnation, reason=loss.reason, cause=loss.cause, at_work_on=at_work)
    )
    then = "a new one is started" if again else "there will be no other"
    parts.journal.tell(f"{name} was lost ({loss.cause}); {then}")


def _given_up(parts: Parts, slot: ActorSlot, cause: str, now: float) -> None:
    """A slot stays empty: where no other worker could hold a stage, that stage is stopped."""
    if slot.slot == EVALUATOR:
        leave_out(parts, parts.evaluations.give_up())
    for run in parts.stages.values():
        if run.waits and not parts.assignment.can_hold(run.home):
            _stop(parts, run, cause, now)


def _stop(parts: Parts, run: StageRun, why: str, now: float) -> None:
    """Leave a stage behind; the others go on."""
    if run.stopped:
        return
    kept = parts.snapshots.newest_step(run.stage)
    parts.journal.tell(f"{run.stage.name} is stopped: {why}; its snapshot of step {kept} is kept, the others go on")
    parts.outbox.append(GiveUpStage(run.stage))
    parts.assignment.let_go(run, now)
    run.stop(why)


def leave_out(parts: Parts, steps: Sequence[int]) -> None:
    """Do not measure the checkpoints of these steps; they need not be kept for it any longer."""
    for step in steps:
        parts.journal.tell(f"the checkpoint of step {step} was not measured; `noprop-dist evaluate` can")
        parts.snapshots.prune(step)
