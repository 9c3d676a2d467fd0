"""One simulated run from its beginning to its end: machines, a store, and the person who starts and resumes it."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from noprop_dist.config.bits import continued
from noprop_dist.engines.coordination import TakenOver
from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core.run import Run
from noprop_dist.errors import UserError
from noprop_dist.machine import Machine
from noprop_dist.records import Record
from noprop_dist.run_plan import RunPlan
from noprop_dist.simulation import faults, invariants
from noprop_dist.simulation.bounds import Bounds
from noprop_dist.simulation.cluster import Cluster, Node, Pace
from noprop_dist.simulation.explained import check_error
from noprop_dist.simulation.processes import Coordinator, Driver, Work, accuracy
from noprop_dist.simulation.scenario import FACTS, Fault, Scenario, plan_of
from noprop_dist.simulation.stand_ins import FIRST_VERSION, undisturbed
from noprop_dist.simulation.storage import SimulatedStore
from noprop_dist.simulation.world import Process, World
from noprop_dist.stages import Stage
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.storage.store import Store
from noprop_dist.training.setup import RunSetup

MOST_LIVES = 12
"""Drivers in the time after the last fault: more than one is needed, so many never."""
REFUSED = r"is of another run|was edited|other data|is not the data|holds a run whose"
"""What a person is told who resumes a run that is not as it was."""
LONGEST_SECONDS = 3000.0
"""Virtual seconds from the last fault to the end of the run."""


@dataclass
class Outcome:
    """What became of one simulated run.

    Attributes:
        scenario: that was run.
        violations: what was wrong; empty if nothing was.
        turns: of the world.
        seconds: of virtual time.
        lives: drivers that it took.
        coordinators: that it took.
        struck: faults that hit something, by kind.
        errors: sentences with which drivers ended before the last.
    """

    scenario: Scenario
    violations: list[str] = field(default_factory=list)
    turns: int = 0
    seconds: float = 0.0
    lives: int = 0
    coordinators: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


class Simulation:
    """A run in the making.

    Args:
        scenario: what is simulated.
    """

    head = "head"

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.world = World(scenario.seed)
        self.plan = plan_of(scenario.settings)
        self.expected = undisturbed(self.plan, on_gpu=any(gpus for _, gpus in scenario.nodes))
        self.outcome = Outcome(scenario)
        self.nodes = [Node(f"node-{n}", cpus, gpus) for n, (cpus, gpus) in enumerate(scenario.nodes, start=1)]
        self.cluster = Cluster(self.world, self.nodes, Pace(turn=scenario.turn_seconds), scenario.most_nodes)
        self.storage = SimulatedStore(self.world, scenario.store)
        self.storage.told_of_write = lambda process, what: invariants.check_write(self, process, what)
        self.driver: Driver | None = None
        self.lives = self.coordinators = 0
        self.writers: dict[Process, None] = {}
        self.coordinators_die_until = 0.0
        self.late_writes: dict[Process, set[str]] = {}
        self.dies_at: dict[str, int] = {}
        """The point at which a coordinator dies, by its name."""
        self.poisoned: dict[Stage, int] = {}
        self.foreign: dict[str, bytes] = {}
        """What was in files that a stranger has changed, by name."""
        self.accuracy = accuracy
        self.last_step = expected_end(self.plan)
        self._damaged: set[str] = set()
        self.kind_from = self.world.now
        """The time from which the world is kind again."""
        self.over = False
        self.end: c.End | None = None
        self._newest_bounds = Bounds(self)
        self._bounds: dict[Process, Bounds] = {}
        self.trace: Callable[[str], None] | None = None

    @property
    def coordinator(self) -> Coordinator | None:
        return None if self.driver is None else self.driver.coordinator

    def run(self) -> Outcome:
        """Simulate it to its end."""
        for fault in self.scenario.faults:
            self._plan_fault(fault)
        person = Process(self.world, "person")
        person.start(self._person)
        while not self.over:
            until = max(self.kind_from, self.world.now) + LONGEST_SECONDS
            came = self.world.run(lambda: self.over or person.error is not None, until)
            if person.error is not None:
                raise person.error
            if not came:
                self.violate(f"the run did not end within {LONGEST_SECONDS:.0f} s of a world without faults")
        self.storage.be_kind()
        if not self.outcome.violations:
            invariants.check_end(self)
        self.outcome.turns, self.outcome.seconds = self.world.turns, self.world.seconds
        self.outcome.lives, self.outcome.coordinators = self.lives, self.coordinators
        return self.outcome

    def _plan_fault(self, fault: Fault) -> None:
        def strike() -> None:
            if not self.over:
                faults.strike(self, fault)

        if fault.point >= 0:
            self.dies_at[fault.victim] = fault.point
        elif fault.turn >= 0:
            self.world.before_turn.setdefault(fault.turn, []).append(strike)
        else:
            self.world.at(fault.seconds, strike)
            self.kind_from = max(self.kind_from, self.world.now + fault.seconds)

    # The person

    def _person(self) -> None:
        plan = self.plan
        while not self.over:
            while self.storage.away:
                self.world.sleep(2.0)
            self.lives += 1
            resume = self.storage.holds_run
            try:
                plan = self._resumed() if resume else self.plan
            except UserError as error:
                self._ended_with(str(error))
                continue
            self.driver = Driver(self, plan, resume)
            while self.driver.result is None and self.driver.process.alive:
                self.world.sleep(2.0)
            self._judge(self.driver)
            if not self.over:
                self.world.sleep(self.world.luck.uniform(1.0, 15.0))

    def _resumed(self) -> RunPlan:
        """What a resume goes on with: the configuration that lies there, and settings that change no bit."""
        again = self.scenario.again
        settings = again[(self.lives - 2) % len(again)] if again else ()
        directory = RunDirectory(self.storage.undisturbed())
        config = directory.config()
        changed = [each for each in settings if each.startswith(("engine.", "checkpoint."))]
        return RunPlan(continued(config, changed), FACTS)

    def _judge(self, driver: Driver) -> None:
        result = driver.result
        invariants.check_manifests(self)
        if driver.process.error is not None:
            self.violate(f"{type(driver.process.error).__name__}: {driver.process.error}")
            self.over = True
        elif isinstance(result, c.End) and not result.stopped:
            self.end, self.over = result, True
        elif isinstance(result, c.End):
            invariants.check_stop(self)
        elif isinstance(result, str):
            self._ended_with(result)
        self.poisoned.clear()
        if self.lives > MOST_LIVES + len(self.scenario.faults):
            self.violate(f"the run did not end in {self.lives} drivers: {self.outcome.errors[-3:]}")
            self.over = True

    def _ended_with(self, error: str) -> None:
        """A driver has ended with an error; where it refuses what a stranger has put there, that is put back."""
        self.outcome.errors.append(error)
        if self.foreign and re.search(REFUSED, error):
            self.storage.put(self.foreign)
            self.foreign = {}
        else:
            check_error(self, error)

    # What a run is made of

    def setup(self, plan: RunPlan) -> RunSetup:
        """What a coordinator builds on."""
        return RunSetup(plan, FIRST_VERSION)

    def work(self, slot: c.Slot, plan: RunPlan) -> Any:  # noqa: ARG002 (a run with real workers asks)
        """What an actor does; see `Work`."""
        return Work(self, plan)

    # What is told on the way

    def asked_for(self, command: c.Command) -> None:
        """A coordinator is about to carry out a command of its core."""
        self.bounds.asked_for(command)

    def violate(self, what: str) -> None:
        """Write down that something is wrong, and end."""
        self.outcome.violations.append(f"{what} (at {self.world.seconds:.2f} s, turn {self.world.turns})")
        self.over = True

    def say(self, line: str) -> None:
        if self.trace is not None:
            self.trace(f"{self.world.seconds:9.2f}  {line}")

    def store(self, process: Process, machine: Machine) -> Store:
        """The run directory's store as one process has it."""
        return self.storage.of(process, machine)

    def begins(self, coordinator: Process) -> None:
        """A coordinator's process starts; it may be one that dies at a certain point."""
        dies_early = self.world.now < self.coordinators_die_until
        coordinator.dies_at = self.world.luck.randint(1, 60) if dies_early else self.dies_at.get(coordinator.name, -1)
        if coordinator.dies_at >= 0:
            coordinator.at_death.append(lambda: faults.struck_at_point(self, coordinator))

    @property
    def bounds(self) -> Bounds:
        """Of the coordinator whose turn it is, or else of the newest: there may be two for a while."""
        thread = self.world.current
        return self._newest_bounds if thread is None else self._bounds.get(thread.process, self._newest_bounds)

    def begins_to_write(self, process: Process) -> None:
        self._bounds[process] = self._newest_bounds = Bounds(self, self._newest_bounds)
        if not self.storage.away:  # what is there in its place is another disk
            invariants.check_one_writer(self, process)

    def heard(self, record: Record) -> None:
        if self.trace is not None:
            self.say(repr(record))
        self.bounds.heard(record)

    def damaged(self, file: str) -> None:
        """A file was damaged from outside."""
        self._damaged.add(file)

    def was_damaged(self, step: int, name: str) -> bool:
        """Return True if a snapshot's file was damaged from outside, and not written again since."""
        return any(f"step-{step:08d}/{name}" in file for file in self._damaged)

    def begins_on(self, on_gpu: bool) -> None:
        """A run that has no snapshot yet computes on the kind of device that is there."""
        self.expected = undisturbed(self.plan, on_gpu)

    def took_over(self, taken: TakenOver) -> None:
        reached = min((each.step for each in taken.start.snapshots.values()), default=0)
        superseded = (f"checkpoints/step-{step:08d}/" for step in range(reached))
        if self.foreign and not next(iter(self.foreign)).startswith(tuple(superseded)):
            self.violate(f"a run goes on with {', '.join(self.foreign)} of another run")
        self.bounds.took_over(taken)

    def check_snapshot(self, snapshot: Snapshot, what: str) -> None:
        if not self.expected.is_right(snapshot):
            self.violate(f"{what}: {snapshot.stage.name} at step {snapshot.step} has other bits")

    def each_turn(self, run: Run) -> None:
        self.bounds.check(run)

    def told_of_coordinator(self, error: Exception) -> None:
        self.say(f"driver: the coordinator was lost ({error})")


def expected_end(plan: RunPlan) -> int:
    """The step at which a run ends: the last, or the one at which it gets no better (`training.early_stopping`)."""
    stopping = plan.config.training.early_stopping
    if stopping is None:
        return plan.total_steps
    best, in_vain = -1.0, 0
    for step in plan.checkpoint_steps[:-1]:
        better = accuracy(step) > best + stopping.min_delta
        best, in_vain = (accuracy(step), 0) if better else (best, in_vain + 1)
        if in_vain >= stopping.patience:
            return step
    return plan.total_steps
