"""The processes of one simulated run that run shipped code: its coordinators, its drivers, and its actors' work."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from noprop_dist.engines.command_runner import CommandRunner
from noprop_dist.engines.coordination import enter, follow_core, goes_on, placement_of, take_over
from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.drawing import who_draws
from noprop_dist.engines.core.events import ClusterSeen
from noprop_dist.engines.core.failure_policy import CoordinatorLosses
from noprop_dist.engines.core.following import Following, HandedOverError, SilentError
from noprop_dist.engines.core.run import Run
from noprop_dist.engines.storage_thread import StorageThread
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.inference.evaluation import Evaluation
from noprop_dist.run_plan import RunPlan
from noprop_dist.simulation import invariants
from noprop_dist.simulation.actor import end
from noprop_dist.simulation.actors import SimulatedActors
from noprop_dist.simulation.machine import SimulatedMachine
from noprop_dist.simulation.stand_ins import HashedStage
from noprop_dist.simulation.world import Process
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import StorageError, UnusableStorageError
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.messages import StageFailure
from noprop_dist.training.progress import RunProgress

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation

POLL_SECONDS = 1.0


class Coordinator:
    """One coordinator's process; does what `engines.ray.coordinator` does, on simulated actors.

    Args:
        simulation: that it is in.
        plan: of the run, as its driver knows it.
        resume: continue the run that lies there, if one does.
        has_begun: whether one must lie there.

    Attributes:
        started: whether it answers.
        run: the core, once there is one.
        result: how it ended: what the core said, or an error.
        node_leaves: whether the cluster says that its node is about to go.
        out_of_reach: seconds that its process lives on once it is given up, if the network between has failed.
    """

    def __init__(self, simulation: "Simulation", plan: RunPlan, resume: bool, has_begun: bool = False) -> None:
        self._simulation, self._plan, self._resume, self._has_begun = simulation, plan, resume, has_begun
        self._started = plan
        simulation.coordinators += 1
        self.process = Process(simulation.world, f"coordinator {simulation.coordinators}", simulation.head)
        simulation.begins(self.process)
        self.machine = SimulatedMachine(self.process)
        self.started = False
        self.run: Run | None = None
        self.waits_for: str | None = None
        self.stop = False
        self.out_of_reach: float | None = None
        self.node_leaves = False
        self.result: c.End | Exception | None = None
        self.process.start(self._main)

    def progress(self) -> RunProgress | str | None:
        return self.waits_for if self.run is None else self.run.progress(self.machine.monotonic())

    def _main(self) -> None:
        self._simulation.world.sleep(self._simulation.world.luck.uniform(1.0, 4.0))
        self.started = True
        try:
            self.result = self._train()
        except (UserError, TrainingError, StorageError) as error:
            self.result = error
        self._simulation.writers.pop(self.process, None)

    def _train(self) -> c.End:
        simulation, plan = self._simulation, self._plan
        directory = RunDirectory(simulation.store(self.process, self.machine))
        with directory.only_writer(self._wait_for):
            simulation.begins_to_write(self.process)
            resume = goes_on(directory, resume=self._resume, has_begun=self._has_begun)
            placement = placement_of(plan, directory, simulation.cluster.resources(), resume=resume)
            enter(plan, directory, resume=resume, machine=self.machine)
            setup = simulation.setup(plan).on(placement.on_gpu)
            self._started = setup.plan
            taken = take_over(setup, directory, simulation.heard, machine=self.machine)
            if not taken.start.snapshots:
                simulation.begins_on(placement.on_gpu)
            simulation.took_over(taken)
            self.run = run = Run(setup.plan, placement, taken.start, self.machine.monotonic())
            run.journal.tell(*taken.warnings, f"{placement.reason}; {who_draws(setup.plan, placement).reason}")
            members = plan.config.training.replicas_per_block
            actors = SimulatedActors(simulation.cluster, self.process, self._work, members)
            storage = StorageThread(taken.checkpoints, taken.log, directory, self.machine)
            runner = ToldRunner(simulation.asked_for, actors, storage, self._see_cluster)
            try:
                return follow_core(run, runner, self.machine, lambda: self.stop, simulation.each_turn)
            finally:
                runner.close(plan.config.engine.grace_seconds)

    def _wait_for(self, what: str) -> None:
        self.waits_for = what

    def _see_cluster(self) -> ClusterSeen:
        cluster = self._simulation.cluster
        return ClusterSeen(cluster.resources(), cluster.leaving(), self.node_leaves)

    def _work(self, slot: c.Slot) -> Any:
        return self._simulation.work(slot, self._started)


class ToldRunner(CommandRunner):
    """Tells of every command before it is carried out.

    Args:
        tell: called with it.
        more: as for `CommandRunner`.
    """

    def __init__(self, tell: Callable[[c.Command], None], *more: Any) -> None:
        super().__init__(*more)
        self._tell = tell

    def carry_out(self, command: c.Command) -> None:
        self._tell(command)
        super().carry_out(command)


class Work:
    """What one actor does: a block worker, the classifier worker, or the evaluator.

    Args:
        simulation: that it is in.
        plan: of the run.
    """

    def __init__(self, simulation: "Simulation", plan: RunPlan) -> None:
        self._simulation, self._plan = simulation, plan
        self._stages: dict[Stage, HashedStage] = {}
        self._directory: RunDirectory | None = None

    def train(self, key: RoundKey, seconds: float) -> Any:
        state = self._stages.get(key.stage)
        if state is None:
            return None
        poisoned = self._simulation.poisoned.get(key.stage)
        if poisoned is not None and poisoned < key.first_step + key.steps:
            del self._stages[key.stage]
            return StageFailure(key.stage, max(poisoned, key.first_step), "NonFiniteError: the loss was nan", "Trace")
        return state.train(key, seconds)

    def answer(self, request: c.Request) -> Any:
        match request:
            case c.Hold(stage, snapshot):
                self._stages[stage] = HashedStage(stage, snapshot, self._plan.on_gpu)
            case c.Release(stage):
                self._stages.pop(stage, None)
            case c.UpdateEmbedding(update):
                return self._stages[EMBEDDING].update(update) if EMBEDDING in self._stages else None
            case c.TakeSnapshot(stage):
                return self._stages[stage].snapshot() if stage in self._stages else None
        return None

    def evaluate(self, process: Process, step: int) -> CheckpointEvaluation:
        """Read a checkpoint with shipped code, and measure it: its figure follows from its step."""
        if self._directory is None:
            self._directory = RunDirectory(self._simulation.store(process, SimulatedMachine(process)))
        try:
            snapshots = self._directory.checkpoints.load_all(step)
        except UserError as error:
            invariants.check_not_measured(self._simulation, process, error)
            raise
        for snapshot in snapshots.values():
            self._simulation.check_snapshot(snapshot, "a checkpoint that is measured")
        result = Evaluation(self._simulation.accuracy(step), 0.5, "mean", 1, 10)
        return CheckpointEvaluation(step, step == self._plan.total_steps, (("validation", result),), None)


def accuracy(step: int) -> float:
    """Of the checkpoint of a step: rises up to a peak and falls after it."""
    return float(np.round(1 - abs(step - PEAK_STEP) / 1000, 6))


PEAK_STEP = 60


class Driver:
    """One driver's process; does what `engines.ray.driver` does.

    Args:
        simulation: that it is in.
        plan: of the run.
        resume: continue the run that lies there.

    Attributes:
        result: how the run ended: what the core said, or the sentence of an error.
    """

    def __init__(self, simulation: "Simulation", plan: RunPlan, resume: bool) -> None:
        self._simulation, self._plan, self._resume = simulation, plan, resume
        self._has_begun = resume
        self.process = Process(simulation.world, f"driver {simulation.lives}", simulation.head)
        self.coordinator: Coordinator | None = None
        self.stop = False
        self.result: c.End | str | None = None
        self.process.at_death.append(self._died)
        self.process.start(self._main)

    def _main(self) -> None:
        config, world = self._plan.config, self._simulation.world
        losses = CoordinatorLosses(config.engine.max_failures, config.checkpoint.storage_timeout_seconds)
        resume = self._resume
        while self.result is None:
            self.coordinator = Coordinator(self._simulation, self._plan, resume, self._has_begun)
            try:
                self.result = self._follow(self.coordinator, losses)
            except HandedOverError as error:
                resume = True
                self._simulation.told_of_coordinator(error)
            except (_CoordinatorGoneError, SilentError) as error:
                resume, wait = True, losses.lost()
                self._simulation.told_of_coordinator(error)
                self._simulation.bounds.coordinator_lost()
                if self.stop or wait is None:
                    self.result = f"the coordinator was lost: {error}"
                    return
                world.sleep(wait)
            except (StorageError, UnusableStorageError) as error:
                wait = None if self.stop else losses.storage_failed(world.now)
                if wait is None:
                    told = "" if isinstance(error, UserError) else "the run directory cannot be read or written: "
                    self.result = f"{told}{error}"
                    return
                self._simulation.told_of_coordinator(error)
                world.sleep(wait)
            except (UserError, TrainingError) as error:
                self.result = str(error)
            finally:
                if self.process.alive:  # else it is ended with the job of its driver
                    self._end(self.coordinator)

    def _end(self, coordinator: Coordinator) -> None:
        """Ray ends a process; one that is out of reach ends later, once its own machine sees that it is alone."""
        if coordinator.out_of_reach is None:
            end(coordinator.process)
        else:
            self._simulation.world.at(coordinator.out_of_reach, lambda: end(coordinator.process))

    def _follow(self, coordinator: Coordinator, losses: CoordinatorLosses) -> c.End:
        world = self._simulation.world

        def watch(progress: RunProgress) -> None:
            self._has_begun = True
            losses.reset_by(progress)

        following = Following(self._plan.config.engine, watch, self._simulation.say, world.now)
        while coordinator.result is None or coordinator.out_of_reach is not None:
            if not coordinator.process.alive and coordinator.out_of_reach is None:
                world.sleep(world.luck.uniform(0.1, 2.0))
                if coordinator.process.error is not None:
                    raise coordinator.process.error
                raise _CoordinatorGoneError("its process died")
            silent = coordinator.process.paused or not coordinator.started
            if silent or coordinator.out_of_reach is not None:
                following.not_answered(world.now)
            else:
                following.answered(coordinator.progress(), world.now)
            if following.tells_to_stop(self.stop, world.now):
                coordinator.stop = True
            world.sleep(POLL_SECONDS)
        result = coordinator.result
        if isinstance(result, Exception):
            raise result
        if result.error is not None:
            raise TrainingError(result.error)
        if result.handed_over:
            raise HandedOverError(f"step {result.step} is saved")
        return result

    def _died(self) -> None:
        """Ray ends the actors of a job whose driver is gone, after a while."""
        world, coordinator = self._simulation.world, self.coordinator
        if coordinator is not None:
            world.at(coordinator.out_of_reach or world.luck.uniform(0.1, 6.0), lambda: end(coordinator.process))


class _CoordinatorGoneError(Exception):
    """The coordinator's process is gone."""
