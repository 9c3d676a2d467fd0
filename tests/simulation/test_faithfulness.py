"""The simulator does what real Ray was seen to do: its runs show the patterns of the traces, and break no rule."""

import random
from dataclasses import replace
from math import inf

import pytest
from patterns import PATTERNS, broken_rules, patterns
from scripted_runs import ScriptedRun
from test_traces import NEVER_SEEN
from turns import Entry, merged, recorded

from noprop_dist.engines.core.commands import CLASSIFIER_WORKER, EVALUATOR, Slot
from noprop_dist.simulation.cluster import Node
from noprop_dist.simulation.faults import WEIGHTS
from noprop_dist.simulation.scenario import Size, draw_scenario
from noprop_dist.simulation.simulation import Simulation

FIRST, SECOND = Slot("block worker", 1), Slot("block worker", 2)
LOOK_SECONDS = 0.05
AT_WORK = 8.0
"""Seconds after the beginning of a coordinator; its workers are at work by then."""
SETTINGS = ("training.max_steps=320", "checkpoint.every_steps=80", "checkpoint.snapshot_every_steps=16",
            "engine.round_steps=16", "engine.hang_seconds=3", "engine.move_after_seconds=5")  # fmt: skip


def by_coordinator(simulation, turns):
    """A sink that sorts the turns by the coordinator that is at work."""
    return lambda turn: turns.setdefault(simulation.world.current.process.name, []).append(turn)


class WatchedRun(ScriptedRun):
    """A run with drawn delays, of which is noted what `traces/record.py` notes of a real one.

    Args:
        settings: of the run, beside `SETTINGS`.
        cores: see `ScriptedRun`.
    """

    def __init__(self, *settings, cores=2):
        super().__init__(*SETTINGS, *settings, cores=cores)
        self.world.luck = random.Random(0)
        self.cluster.pace = replace(self.cluster.pace, start=3.0, turn=0.01)
        self._turns, self._outside, self._processes, self._dead = {}, [], {}, set()
        self._look()

    def note(self, kind, process=None, node=None):
        self._outside.append((self.world.now, kind, process, node))

    def _look(self):
        """Note which processes and nodes are gone since the last look."""
        self._processes |= {each.process.name: each.process for each in self.cluster.actors if each.members}
        for name in [name for name, process in self._processes.items() if not process.alive]:
            del self._processes[name]
            self.note("process gone", name)
        for name in {node.name for node in self.cluster.nodes.values() if not node.known} - self._dead:
            self._dead.add(name)
            self.note("node dead in Ray's table", node=name)
        self.world.at(LOOK_SECONDS, self._look)

    # What is done to it

    def sigkill(self, slot):
        self.note("SIGKILL", self.actor(slot).process.name)
        self.actor(slot).die("its process was killed", 0.1)

    def sigstop(self, slot):
        self.note("SIGSTOP", self.actor(slot).process.name)
        self.hang(slot)

    def sigcont(self, slot):
        self.note("SIGCONT", self.actor(slot).process.name)
        self.actor(slot).process.go_on()

    def lose_node(self, number, outlived, told):
        name = f"node-{number}"
        self.note("raylet SIGSTOP" if outlived == inf else "raylet SIGKILL", node=name)
        self.cluster.lose_node(self.cluster.nodes[name], outlived, told)

    def drain(self, number):
        self.note("drain answered", node=f"node-{number}")
        self.cluster.drain(self.cluster.nodes[f"node-{number}"])

    def add_node(self):
        name = f"node-{len(self.cluster.nodes) + 1}"
        self.note("node added", node=name)
        self.cluster.add(Node(name, 1))

    def free(self, number):
        self.note("room")
        self.cluster.nodes[f"node-{number}"].cpus_used -= 100
        self.cluster.fill()

    # What it was

    def watched(self):
        """Train to the end; return the trace of each coordinator."""
        with recorded(by_coordinator(self, self._turns)) as self._as:
            self.drive()
        begins = [*(turns[0].now for turns in self._turns.values()), inf]
        parts = zip(self._turns.items(), begins[:-1], begins[1:], strict=True)
        return [
            merged(turns, [(each[0], self._entry(*each[1:], of)) for each in self._outside if begin <= each[0] < end])
            for (of, turns), begin, end in parts
        ]

    def _entry(self, kind, process, node, of):
        return Entry(
            kind,
            process=None if process is None else process.removesuffix(f" of {of}"),
            node=None if node is None else self._as.nodes.setdefault(node, f"node {len(self._as.nodes) + 1}"),
        )


SCENES = {}


def shows(*settings, cores=2, patterns):
    """Add a situation that shows these patterns; it is prepared by a function of its run."""

    def add(prepare):
        SCENES[prepare.__name__] = prepare, settings, cores, patterns
        return prepare

    return add


@shows(
    patterns={
        "one loss is told once for each call under way",
        "a loss is told within half a second of the process's death",
    }
)
def block_worker_killed(run):
    run.at(AT_WORK, lambda: run.sigkill(FIRST))


@shows(
    patterns={
        "one loss is told for some of the calls under way, and of the others nothing comes",
        "a call raises, which is told as a loss though the process lives",
    }
)
def worker_raises(run):
    run.at(AT_WORK, lambda: setattr(run.actor(FIRST), "raises", "OutOfMemoryError"))


@shows(patterns={"a process that was killed lives on for seconds", "a ping is not answered"})
def block_worker_stopped(run):
    run.at(AT_WORK, lambda: run.sigstop(FIRST))


@shows("engine.workers=2", cores=3, patterns={"the successor is ready before the process that was killed is gone"})
def block_worker_stopped_with_a_core_to_spare(run):
    run.at(AT_WORK, lambda: run.sigstop(FIRST))


@shows(patterns={"a process that was stopped for a moment answers when it goes on"})
def block_worker_stopped_for_a_moment(run):
    run.at(AT_WORK, lambda: run.sigstop(FIRST))
    run.at(AT_WORK + 2, lambda: run.sigcont(FIRST))


@shows(patterns={"an idle process dies, and nothing is ever told of it"})
def classifier_killed_idle(run):
    run.at(AT_WORK + 20, lambda: run.sigkill(CLASSIFIER_WORKER))


@shows(
    patterns={
        "an idle process dies, and that is told right after it is called next",
        "a dead process is called, and the call waits until its loss is told",
    }
)
def evaluator_killed_idle(run):
    run.at(5.5, lambda: run.sigkill(EVALUATOR))


@shows(patterns={"a constructor raises"})
def constructor_raises(run):
    run.cluster.broken_constructors[EVALUATOR] = True


@shows(
    patterns={
        "two processes are lost in one turn",
        "processes of one node are lost in one turn",
        "processes of one node are lost in different turns",
        "a loss is told over a second after the process's death, though a call was under way",
        "cores shrink before a loss is told",
        "cores shrink after a loss is told",
    }
)
def node_killed(run):
    run.at(AT_WORK, lambda: run.lose_node(1, 0.5, 1.8))


@shows(
    patterns={
        "a node is lost, and the cores that are seen never change",
        "a process answers its first call only after the cluster had room for it",
    }
)
def node_killed_and_back(run):
    run.at(AT_WORK, lambda: run.lose_node(2, 0.5, 1.8))
    run.at(AT_WORK + 1.9, run.add_node)


@shows(
    "engine.workers=auto",
    patterns={"cores grow before the loss of a process whose place they take is told", "cores grow"},
)
def returned_before_it_is_missed(run):
    run.at(AT_WORK, lambda: run.lose_node(2, inf, 5.6))
    run.at(AT_WORK + 0.1, run.add_node)


@shows(
    patterns={
        "a process answers after the raylet of its node was killed or stopped",
        "a process lives on after its node was taken for dead",
    }
)
def raylet_stopped(run):
    run.at(AT_WORK, lambda: run.lose_node(2, inf, 5.6))


@shows(
    "engine.start_timeout_seconds=12",
    patterns={
        "a process that finds no room is killed before it exists, and asked for again",
        "a process answers its first call only after the cluster had room for it",
    },
)
def no_room(run):
    run.occupy(2)
    run.at(20, lambda: run.free(2))


@shows(
    patterns={
        "a node is seen leaving, and its worker is ended before it is lost",
        "a leaving node's cores do not count",
    }
)
def drained(run):
    run.at(AT_WORK, lambda: run.drain(2))


@shows(patterns={"a node is seen leaving, and its worker is lost before it is ended"})
def drained_and_killed_at_once(run):
    run.pace(SECOND, 5.0)  # as long as a step takes, it cannot leave
    run.at(AT_WORK, lambda: run.drain(2))
    run.at(AT_WORK + 2.5, lambda: run.lose_node(2, 0.1, 0.5))


@shows(patterns={"a node leaves, and its worker is lost before it is seen leaving"})
def drained_and_missed_at_once(run):
    run.at(AT_WORK + 1.0, lambda: run.drain(2))
    run.at(AT_WORK + 1.01, lambda: run.lose_node(2, 0.0, 0.1))


@shows(
    "engine.workers=1",
    "engine.blocks_at_once=3",
    patterns={"one lane goes on while another of the same process is silent for a second"},
)
def lane_hangs(run):
    run.at(AT_WORK, lambda: run.actor(FIRST).stuck.add("lane-1"))


@shows(patterns={"a ping is answered while a round is under way"})
def slow_round(run):
    run.at(AT_WORK, lambda: run.pace(FIRST, 0.4))
    run.at(AT_WORK + 6, lambda: run.pace(FIRST))


@shows("engine.prefetch=3", patterns={"a round is answered with nothing after a stop"})
def stopped(run):
    run.at(AT_WORK, lambda: setattr(run.driver, "stop", True))


@shows(patterns={"a process that never answered is lost"})
def killed_while_starting(run):
    run.at(1.0, lambda: run.sigkill(FIRST))


@shows(patterns={"a coordinator is gone, with calls under way"})
def coordinator_killed(run):
    run.at(AT_WORK, run.lose_coordinator)


@shows("engine.coordinator_timeout_seconds=5", patterns={"a coordinator is gone, with calls under way"})
def coordinator_stopped(run):
    run.at(AT_WORK, run.pause_coordinator)


@shows(patterns={"a worker of an earlier coordinator is still there when this one begins"})
def worker_stopped_and_coordinator_killed(run):
    run.at(AT_WORK, lambda: run.sigstop(FIRST))
    run.at(AT_WORK + 0.01, run.lose_coordinator)


@pytest.fixture(scope="module")
def traces():
    """The traces of the coordinators of each situation."""
    made = {}
    for name, (prepare, settings, cores, _) in SCENES.items():
        run = WatchedRun(*settings, cores=cores)
        prepare(run)
        made[name] = run.watched()
        run.world.close()
    return made


@pytest.mark.parametrize("name", SCENES)
def test_the_simulator_does_what_ray_was_seen_to_do(traces, name):
    assert SCENES[name][3] - set().union(*map(patterns, traces[name])) == set()


@pytest.mark.parametrize("name", SCENES)
def test_a_simulated_run_breaks_no_rule(traces, name):
    assert [line for trace in traces[name] for line in broken_rules(trace)] == []


def test_the_simulator_can_do_all_that_ray_was_seen_to_do(traces):
    shown = set().union(*(patterns(trace) for each in traces.values() for trace in each))
    assert set(PATTERNS) - NEVER_SEEN - shown == set()


@pytest.mark.parametrize("seed", range(12))
def test_a_run_that_is_broken_at_random_breaks_no_rule(seed):
    simulation, turns = Simulation(draw_scenario(seed, Size(), WEIGHTS)), {}
    with recorded(by_coordinator(simulation, turns)):
        simulation.run()
    simulation.world.close()
    assert [line for trace in turns.values() for line in broken_rules(trace)] == []
