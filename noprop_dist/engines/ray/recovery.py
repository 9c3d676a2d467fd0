"""What happens when a stage fails or a worker is lost: to the stages concerned, and to no others."""

import time

from noprop_dist.config.schema import EngineSettings
from noprop_dist.engines.ray.actors import EVALUATOR
from noprop_dist.engines.ray.evaluations import Evaluations
from noprop_dist.engines.ray.fleet import Fleet, Lost
from noprop_dist.engines.ray.roster import Roster
from noprop_dist.engines.ray.snapshot_keeper import SnapshotKeeper
from noprop_dist.engines.ray.stage import Stage
from noprop_dist.training.messages import StageFailure
from noprop_dist.training.run_log import RunLog


class Recovery:
    """Decides who begins again, who waits, and who is left behind.

    Args:
        engine: settings, with the budget of failures.
        stages: by number.
        fleet: of the run.
        keeper: of the snapshots that stages begin again from.
        log: told of everything.
        roster: which stage is where.
        evaluations: that a lost evaluator leaves.
    """

    def __init__(
        self,
        engine: EngineSettings,
        stages: dict[int, Stage],
        fleet: Fleet,
        keeper: SnapshotKeeper,
        log: RunLog,
        roster: Roster,
        evaluations: Evaluations,
    ) -> None:
        self._engine = engine
        self._stages = stages
        self._fleet = fleet
        self._keeper = keeper
        self._log = log
        self._roster = roster
        self._evaluations = evaluations

    def failed(self, failure: StageFailure) -> None:
        """A stage raised: the same batches would only make it raise again."""
        stage = self._stages[failure.stage]
        self._log.event("failure", stage=stage.name, step=failure.step, cause=failure.cause, trace=failure.trace)
        self._leave_behind(stage, f"{failure.cause}, in the round from step {stage.queue.steps_done}")

    def _leave_behind(self, stage: Stage, why: str) -> None:
        if stage.stopped is None:
            kept = self._keeper.latest_step(stage.number)
            self._log.news(f"{stage.name} is stopped: {why}; its snapshot of step {kept} is kept, the others go on")
            self._log.board.state(stage.number, "stopped")
            self._keeper.give_up(stage.number)
            self._roster.let_go(stage)
            stage.stopped = why

    def lost(self, lost: Lost) -> None:
        """Only the stages of this worker go back to their own snapshots; the others do not notice."""
        name, stages = lost.worker.name, self._roster.held_by(lost.worker)
        self._log.event("lost", worker=name, incarnation=lost.worker.incarnation, reason=lost.reason, cause=lost.cause,
                        at_work_on=self._stages[lost.stage].name if lost.stage is not None else None)  # fmt: skip
        then = "there will be no other" if lost.worker.given_up is not None else "a new one is started"
        self._log.news(f"{name} was lost ({lost.cause}); {then}")
        for stage in stages:
            stage.lost_at = stage.lost_at or time.monotonic()
            self._log.board.state(stage.number, "recovering")
            self._roster.forget(stage)
        if name == EVALUATOR:
            self._evaluator_lost(lost)
        elif lost.stage is not None and not self._stages[lost.stage].over:
            self._charge(self._stages[lost.stage], lost.cause)
        if lost.worker.given_up is not None:
            self._given_up(lost.worker.given_up)

    def _charge(self, stage: Stage, cause: str) -> None:
        stage.failures += 1
        if -1 < self._engine.max_failures < stage.failures:
            self._leave_behind(
                stage,
                f"{stage.failures} workers were lost while at work on it, engine.max_failures="
                f"{self._engine.max_failures} are allowed; the last one: {cause}",
            )

    def _given_up(self, cause: str) -> None:
        """A worker that cannot be made: where that goes for all that could hold a stage, the stage is stopped."""
        for stage in self._stages.values():
            if stage.waits and not self._fleet.can_hold(stage.home):
                self._leave_behind(stage, cause)

    def _evaluator_lost(self, lost: Lost) -> None:
        left_out = [self._evaluations.evaluator_lost()]
        if lost.worker.given_up is not None:
            left_out += self._evaluations.give_up()
        for step in left_out:
            if step is not None:
                self._log.news(f"the checkpoint of step {step} was not measured; `noprop-dist evaluate` can")
