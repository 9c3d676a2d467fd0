"""Runs with a script: settings, machines, and what happens at chosen moments of virtual time. No delay is drawn."""

import random
from collections import Counter
from dataclasses import replace

from noprop_dist.engines.core import commands as c
from noprop_dist.records import EmbeddingUpdated, RoundDone
from noprop_dist.reporting.summary import of_kind
from noprop_dist.simulation.cluster import Cluster, Node
from noprop_dist.simulation.processes import Coordinator, Driver
from noprop_dist.simulation.scenario import Scenario, plan_of
from noprop_dist.simulation.simulation import Simulation
from noprop_dist.simulation.stand_ins import undisturbed
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.run_directory import RunDirectory

FIRST, SECOND = c.Slot("block worker", 1), c.Slot("block worker", 2)
START_SECONDS = 5.0
STEP_SECONDS = 0.05
LONGEST_RUN_SECONDS = 100_000.0
LEARNED = "embedding={kind: learned, sync_steps: 4}"
SMALL = ("blocks.count=3", "training.max_steps=48", "checkpoint.every_steps=16", "engine.round_steps=4",
         "checkpoint.snapshot_every_steps=8", "checkpoint.num_to_keep=100", "engine.sampling=worker")  # fmt: skip
"""Three blocks; all checkpoints are kept."""


class Steady(random.Random):
    """Always draws the least."""

    def random(self):
        return 0.0

    def uniform(self, a, b):
        return a


class ScriptedCluster(Cluster):
    """Knows how long the steps of single slots take."""

    step_seconds: dict[c.Slot, float]

    def ask_room(self, actor):
        actor.slowness = self.step_seconds.get(actor.incarnation.slot, STEP_SECONDS) / STEP_SECONDS
        super().ask_room(actor)


class ScriptedRun(Simulation):
    """A run, first by one coordinator, then perhaps by others.

    Args:
        settings: of the run, beside or in place of `SMALL`.
        cores: of the cluster, each on a node of its own: block worker 1 is on node-1, and so on.
        store: where the run directory lies.
        gpus: of each node.
        most_nodes: that an autoscaler adds to; 0 without one.

    Attributes:
        records: of the run; what was taken back is not among them.
        seen: commands of the last coordinator.
        said: lines that a driver told.
    """

    def __init__(self, *settings, cores=2, store="disk", gpus=0, most_nodes=0):
        super().__init__(Scenario(0, (*SMALL, *settings), nodes=((1, gpus),) * cores, store=store, turn_seconds=0.0))
        self.world.luck = Steady()
        least_of_start = 0.7
        pace = replace(self.cluster.pace, start=START_SECONDS / least_of_start, step=STEP_SECONDS)
        self.cluster = ScriptedCluster(self.world, self.nodes, pace, most_nodes)
        self.cluster.step_seconds = {}
        self.accuracy = lambda step: 0.5
        self.records, self.seen, self.said = [], [], []
        self._script, self._moments, self._coordinator = [], [], None
        self._trains = False

    @property
    def coordinator(self):
        return self._coordinator if self.driver is None else self.driver.coordinator

    @property
    def core(self):
        """What decides, in the coordinator that there is."""
        return self.coordinator.run

    @property
    def directory(self):
        return RunDirectory(self.storage.undisturbed())

    # What happens

    def at(self, seconds, do):
        """Do something so many seconds from now, or after the next coordinator has begun to train."""
        if self._trains:
            self._plan(seconds, do)
        else:
            self._script.append((seconds, do))

    def when(self, is_it, do):
        """Do something just before the next command of which `is_it` is true is carried out."""
        self._moments.append((is_it, do))

    def _plan(self, seconds, do):
        coordinator = self.coordinator

        def act():
            if self.coordinator is coordinator and self._trains:
                do()

        self.world.at(seconds, act)

    def actor(self, slot):
        """The newest process of a slot that is there; None if there is none."""
        return next((each for each in reversed(self.cluster.actors) if each.incarnation.slot == slot), None)

    def kill(self, slot):
        """End the process of a slot, if there is one."""
        if (actor := self.actor(slot)) is not None:
            actor.die("its process was killed", 0.0)

    def hang(self, slot):
        """Let the process of a slot, if it has started, answer nothing more."""
        actor = self.actor(slot)
        if actor is not None and actor.answered:
            actor.process.pause()

    def pace(self, slot, seconds=STEP_SECONDS):
        """Let each step of a slot take so many seconds from its next round on."""
        self.cluster.step_seconds[slot] = seconds
        if (actor := self.actor(slot)) is not None:
            actor.slowness = seconds / STEP_SECONDS

    def occupy(self, *numbers):
        """Leave no room on some nodes."""
        for number in numbers:
            self.cluster.nodes[f"node-{number}"].cpus_used += 100

    def leave(self, number, leaving=True):
        """Let the cluster say that a node leaves."""
        self.cluster.nodes[f"node-{number}"].leaving = leaving

    def grow(self, cores):
        """Add nodes of one core."""
        for number in range(len(self.cluster.nodes) + 1, len(self.cluster.nodes) + 1 + cores):
            self.cluster.add(Node(f"node-{number}", 1))

    def lose_nodes(self):
        """Let all machines be gone, and the cluster know of it."""
        for node in self.cluster.nodes.values():
            node.alive = node.known = False

    def hang_storage(self, seconds):
        """Let no operation of the store end for so long, or longer."""
        self.storage.hangs = True
        self.world.at(seconds, lambda: setattr(self.storage, "hangs", False))

    def stop(self):
        """Ask the run to stop."""
        self.coordinator.stop = True

    def lose_coordinator(self):
        self.coordinator.process.die()

    def pause_coordinator(self):
        """Let it do nothing (SIGSTOP)."""
        self.coordinator.process.pause()

    def continue_coordinator(self):
        self.coordinator.process.go_on()

    # The run

    def train(self, seconds=None):
        """Train to the end; return it, or None: the coordinator was lost, if not before, after so many seconds.

        Raises:
            UserError, TrainingError, StorageError: as the coordinator does.
        """
        if seconds is not None:
            self.at(seconds, self.lose_coordinator)
        coordinator = self._coordinator = Coordinator(self, self.plan, self.storage.holds_run)
        self.seen = []
        over = self.world.run(
            lambda: coordinator.result is not None or not coordinator.process.alive,
            self.world.now + LONGEST_RUN_SECONDS,
        )
        self._trains, self._script = False, []
        assert over, "the run did not end"
        coordinator.process.die()
        self.world.run(lambda: False, self.world.now + 1.0)  # what it has left ends
        self.records = self.directory.metrics_from()[0] if self.storage.holds_run else []
        assert not self.outcome.violations, self.outcome.violations
        for error in (coordinator.process.error, coordinator.result):
            if isinstance(error, BaseException):
                raise error
        return coordinator.result

    def resume(self, *settings, seconds=None, cores=None):
        """Train on with settings in place of those before."""
        if cores is not None:
            self.grow(cores - len(self.cluster.nodes))
        self.scenario = replace(self.scenario, settings=(*self.scenario.settings, *settings))
        self.plan = plan_of(self.scenario.settings)
        self.expected = undisturbed(self.plan, on_gpu=any(node.gpus for node in self.nodes))
        return self.train(seconds)

    def drive(self):
        """Let a driver train: it begins another coordinator in place of one that is lost; return what it returns."""
        driver = self.driver = Driver(self, self.plan, self.storage.holds_run)
        over = self.world.run(lambda: driver.result is not None, self.world.now + LONGEST_RUN_SECONDS)
        self._trains, self._script = False, []
        assert over, "the run did not end"
        self.records = self.directory.metrics_from()[0]
        return driver.result

    def took_over(self, taken):
        super().took_over(taken)
        self.records, self._trains = [], True
        script, self._script = self._script, []
        for seconds, do in script:
            self._plan(seconds, do)

    def asked_for(self, command):
        self.seen.append(command)
        for moment in [each for each in self._moments if each[0](command)]:
            self._moments.remove(moment)
            moment[1]()

    def say(self, line):
        self.said.append(line)

    def heard(self, record):
        self.records.append(record)

    def each_turn(self, run):
        """Nothing: what is bounded is looked at by the random campaigns."""

    # What is known

    def records_of(self, kind):
        return of_kind(self.records, kind)

    def calls_of(self, request):
        """The calls of one type that were made, in their order."""
        return [each for each in self.seen if isinstance(each, c.CallActor) and isinstance(each.request, request)]

    def waits_for(self):
        """What the run waits for, for people."""
        return self.coordinator.progress().waits_for

    def steps_written(self):
        """Steps that are written down, by stage; more than the run has where something is counted twice."""
        done = Counter[Stage]()
        for each in self.records_of(RoundDone):
            done[each.stage] += each.steps
        for each in self.records_of(EmbeddingUpdated):
            done[EMBEDDING] += each.steps
        return done

    def newest(self):
        """The last step of every stage that is saved."""
        saved, blocks = self.directory.checkpoints.saved_steps(), self.plan.config.blocks.count
        return {stage: max(saved[stage.file(blocks)]) for stage in self.plan.stages if stage.file(blocks) in saved}

    def fingerprints(self, step=None):
        """SHA-256 of every stage's weights in a checkpoint, or in the last one."""
        return {each.stage: each.sha256 for each in self.directory.checkpoints.manifest(step).stages}


def check_whole(run, end):
    """A run came to its end, every step counts once, and no bit differs."""
    total = run.plan.total_steps
    assert (end.step, end.error, end.stopped) == (total, None, False)
    assert run.fingerprints() == run.expected.fingerprints(total)
    assert run.steps_written() == dict.fromkeys(run.plan.stages, total), "every step is written once"
