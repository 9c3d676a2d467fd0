"""What happens when a stage fails or an actor is lost: to the stages concerned, and to no others."""

from collections.abc import Sequence

from noprop_dist.engines.core.actor_pool import CONTROL_LANE, Absent, ActorSlot, GivenUp
from noprop_dist.engines.core.commands import EVALUATOR, DescribeYourself, GiveUpStage
from noprop_dist.engines.core.failure_policy import BY_CLOUD, Loss, after_loss
from noprop_dist.engines.core.parts import Parts
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.records import LossReason, StageFailed, WorkerLost
from noprop_dist.stages import Stage
from noprop_dist.training.messages import StageFailure


def stage_failed(parts: Parts, stage_run: StageRun, failure: StageFailure, now: float) -> None:
    """Stop a stage that raised: the same batches would make it raise again."""
    parts.journal.log(StageFailed(stage=stage_run.stage, step=failure.step, cause=failure.cause, trace=failure.trace))
    _stop(parts, stage_run, f"{failure.cause}, in the round from step {stage_run.queue.steps_done}", now)


def lose_silent_actors(parts: Parts, now: float) -> None:
    """Treat actors as lost that have not replied for longer than their calls allow."""
    parts.pool.ping_silent(parts.engine.hang_seconds, now)
    for slot, lane, call in parts.pool.overdue(now):
        if isinstance(call.request, DescribeYourself):
            # The cluster may have no room for it. Asking again costs nothing, so it is no loss.
            parts.pool.end(slot, Absent(retry_at=now))
            slot.losses_in_row, slot.avoided_node = 0, ""
        else:
            silent_lane = None if lane == CONTROL_LANE else lane  # one that answers no ping is silent as a whole
            actor_lost(parts, slot, "hung", f"it hung: no reply for {call.patience_seconds:.0f} s", now, silent_lane)


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
        lane: that was silent; None if the whole process is gone.
        constructor_raised: whether the actor's constructor raised.
    """
    at_work = parts.pool.at_work_on(slot, lane)
    stage_run = parts.stages[at_work] if at_work is not None else None
    by_cloud = reason in BY_CLOUD
    failures = stage_run.losses[by_cloud] if stage_run is not None and not stage_run.over else None
    loss = Loss(reason, cause, constructor_raised, slot.losses_in_row, failures)
    decision = after_loss(loss, parts.engine.max_failures, parts.engine.max_preemption_failures)
    _tell_of(parts, slot, loss, at_work, again=decision.restart_after_seconds is not None)
    parts.assignment.worker_lost(slot, now)
    if not by_cloud:
        slot.losses_in_row += 1
    slot.avoided_node = slot.facts.node_id if reason == "out_of_memory" and slot.facts is not None else ""
    after = decision.restart_after_seconds
    parts.pool.end(slot, GivenUp(cause) if after is None else Absent(retry_at=now + after))
    if slot.slot == EVALUATOR:
        leave_out(parts, parts.evaluations.evaluator_lost(by_cloud))
    if stage_run is not None and decision.charge_stage:
        stage_run.charge(by_cloud)
        if decision.stop_stage is not None:
            _stop(parts, stage_run, decision.stop_stage, now)
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
    """Leave a slot empty, and stop the stages that no other worker can hold."""
    if slot.slot == EVALUATOR:
        leave_out(parts, parts.evaluations.give_up())
    for stage_run in parts.stages.values():
        if stage_run.waits and not parts.assignment.can_hold(stage_run.home):
            _stop(parts, stage_run, cause, now)


def _stop(parts: Parts, stage_run: StageRun, why: str, now: float) -> None:
    """Leave a stage behind; the others go on."""
    if stage_run.stopped:
        return
    kept = parts.snapshots.newest_step(stage_run.stage)
    parts.journal.tell(
        f"{stage_run.stage.name} is stopped: {why}; its snapshot of step {kept} is kept, the others go on"
    )
    parts.outbox.append(GiveUpStage(stage_run.stage))
    parts.assignment.let_go(stage_run, now)
    stage_run.stop(why)


def leave_out(parts: Parts, steps: Sequence[int]) -> None:
    """Do not measure the checkpoints of these steps; they need not be kept for it any longer."""
    for step in steps:
        parts.journal.tell(f"the checkpoint of step {step} was not measured; `noprop-dist evaluate` can")
        parts.snapshots.prune(step, parts.evaluations.best)
