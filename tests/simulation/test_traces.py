"""What real Ray did to the engine, as `traces/record.py` recorded it: it shows these patterns and breaks no rule."""

from pathlib import Path

import pytest
from patterns import PATTERNS, broken_rules, patterns
from turns import Entry, Recorder, Turn, read_trace, write_line

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core import events as e
from noprop_dist.engines.core.placement import Resources
from noprop_dist.records import News
from noprop_dist.stages import block
from noprop_dist.training.batch_stream import RoundKey

TRACES = {file.stem: file for file in sorted((Path(__file__).parent / "traces").glob("*.jsonl"))}
USUAL = {
    "several calls of one lane are answered in one turn",
    "a ping is answered while a round is under way",
    "a round is answered with nothing after a stop",
    "a write is told of with a reply",
    "a write is told of alone",
    "a write is told of with a loss",
}
NEVER_SEEN = {
    "a reply and the loss of its process are told in one turn, the reply first",
    "a reply and the loss of its process are told in one turn, the loss first",
    "a later call of a lane is answered in an earlier turn",
    "a node leaves, and its worker is lost before it is seen leaving",
}
"""Nothing in Ray forbids these: they are a matter of milliseconds, or of network and load that one machine has not."""
SHOWN = {
    "block_worker_killed-1": {
        "one loss is told once for each call under way",
        "a loss is told within half a second of the process's death",
    },
    "block_worker_stopped-1": {
        "a process that was killed lives on for seconds",
        "a ping is not answered",
    },
    "block_worker_stopped_for_a_moment-1": {
        "a process that was stopped for a moment answers when it goes on",
    },
    "classifier_killed_at_work-1": {
        "one loss is told once for each call under way",
        "a loss is told within half a second of the process's death",
    },
    "classifier_killed_idle-1": {
        "an idle process dies, and nothing is ever told of it",
    },
    "constructor_raises-1": {
        "one loss is told once for each call under way",
        "a loss is told within half a second of the process's death",
        "a constructor raises",
    },
    "coordinator_killed-1": {
        "a coordinator is gone, with calls under way",
    },
    "coordinator_killed-2": set(),
    "coordinator_stopped-1": {
        "a coordinator is gone, with calls under way",
    },
    "coordinator_stopped-2": set(),
    "coordinators_node_killed-1": {
        "a coordinator is gone, with calls under way",
    },
    "coordinators_node_killed-2": set(),
    "drained-1": {
        "a node is seen leaving, and its worker is ended before it is lost",
        "a leaving node's cores do not count",
    },
    "drained_and_killed_at_once-1": {
        "one loss is told once for each call under way",
        "a dead process is called, and the call waits until its loss is told",
        "a loss is told over a second after the process's death, though a call was under way",
        "a process that never answered is lost",
        "cores shrink before a loss is told",
        "a node is seen leaving, and its worker is ended before it is lost",
        "a node is seen leaving, and its worker is lost before it is ended",
        "a leaving node's cores do not count",
    },
    "drained_as_idle-1": set(),
    "drained_while_stalled-1": {
        "a node is seen leaving, and its worker is ended before it is lost",
        "a leaving node's cores do not count",
    },
    "driver_killed-1": {
        "a coordinator is gone, with calls under way",
    },
    "driver_killed-2": set(),
    "embedding_owner_killed-1": {
        "one loss is told once for each call under way",
        "a loss is told within half a second of the process's death",
    },
    "evaluator_killed_at_work-1": {
        "a loss is told within half a second of the process's death",
    },
    "evaluator_killed_idle-1": {
        "an idle process dies, and that is told right after it is called next",
        "a dead process is called, and the call waits until its loss is told",
    },
    "grows-1": {
        "cores grow",
    },
    "lane_hangs-1": {
        "a process that was killed lives on for seconds",
        "one lane goes on while another of the same process is silent for a second",
    },
    "lanes-1": {
        "one loss is told once for each call under way",
        "a loss is told within half a second of the process's death",
        "one lane goes on while another of the same process is silent for a second",
    },
    "large_snapshots-1": set(),
    "large_snapshots_node_killed-1": {
        "one loss is told once for each call under way",
        "an idle process dies, and that is told right after it is called next",
        "a dead process is called, and the call waits until its loss is told",
        "two processes are lost in one turn",
        "processes of one node are lost in one turn",
        "a loss is told over a second after the process's death, though a call was under way",
        "cores shrink after a loss is told",
    },
    "leader_killed-1": {
        "one loss is told once for each call under way",
        "a loss is told within half a second of the process's death",
    },
    "no_room-1": {
        "a process answers its first call only after the cluster had room for it",
        "a process that finds no room is killed before it exists, and asked for again",
    },
    "node_and_worker_killed-1": {
        "one loss is told once for each call under way",
        "an idle process dies, and that is told right after it is called next",
        "a dead process is called, and the call waits until its loss is told",
        "processes of one node are lost in different turns",
        "a loss is told over a second after the process's death, though a call was under way",
        "a process answers its first call only after the cluster had room for it",
        "cores shrink before a loss is told",
        "cores shrink after a loss is told",
        "cores grow before the loss of a process whose place they take is told",
        "cores grow",
    },
    "node_killed-1": {
        "one loss is told once for each call under way",
        "a loss is told over a second after the process's death, though a call was under way",
        "cores shrink after a loss is told",
    },
    "node_killed_and_back-1": {
        "one loss is told once for each call under way",
        "a loss is told over a second after the process's death, though a call was under way",
        "a process answers its first call only after the cluster had room for it",
        "a node is lost, and the cores that are seen never change",
    },
    "raylet_stopped-1": {
        "one loss is told once for each call under way",
        "a process answers after the raylet of its node was killed or stopped",
        "a process lives on after its node was taken for dead",
        "cores shrink after a loss is told",
    },
    "replica_killed-1": {
        "one loss is told for some of the calls under way, and of the others nothing comes",
        "a call raises, which is told as a loss though the process lives",
    },
    "returned_before_it_is_missed-1": {
        "one loss is told once for each call under way",
        "processes of one node are lost in different turns",
        "a process lives on after its node was taken for dead",
        "a process that was killed lives on for seconds",
        "the successor is ready before the process that was killed is gone",
        "cores shrink after a loss is told",
        "cores grow before the loss of a process whose place they take is told",
        "cores grow",
    },
    "two_workers_killed-1": {
        "one loss is told once for each call under way",
        "a loss is told within half a second of the process's death",
        "a call raises, which is told as a loss though the process lives",
    },
    "undisturbed-1": set(),
    "worker_raises-1": {
        "one loss is told for some of the calls under way, and of the others nothing comes",
        "a call raises, which is told as a loss though the process lives",
    },
    "worker_stopped_and_coordinator_killed-1": {
        "a coordinator is gone, with calls under way",
    },
    "worker_stopped_and_coordinator_killed-2": {
        "a worker of an earlier coordinator is still there when this one begins",
    },
}


@pytest.mark.parametrize("name", TRACES)
def test_a_real_run_breaks_no_rule(name):
    assert broken_rules(read_trace(TRACES[name])) == []


@pytest.mark.parametrize("name", TRACES)
def test_a_real_run_shows_the_patterns_that_are_written_down_for_it(name):
    assert patterns(read_trace(TRACES[name])) - USUAL == SHOWN[name]


def test_every_pattern_is_shown_by_some_real_run():
    shown = set().union(*(patterns(read_trace(file)) for file in TRACES.values()))
    assert shown == set(PATTERNS) - NEVER_SEEN


# The rules themselves


def made_up(*turns):
    """A trace of a worker that is started, called three times and answers once, and of the turns that follow."""
    called = [Entry("CallActor", "block worker 1#1", number, "Train", "main", "block 1") for number in (1, 2, 3)]
    begun = Turn(0.0, commands=(Entry("StartActor", "block worker 1#1"), *called))
    return [begun, Turn(1.0, (reply(1, reached=16),)), *turns]


def reply(number, process="block worker 1#1", reached=None):
    return Entry("Replied", process, number, "Train", "main", "block 1", answer="RoundReport", reached=reached)


LOST = Entry("ActorLost", "block worker 1#1", cause="made up", constructor_raised=False)
KILLED = Entry("KillActor", "block worker 1#1")


@pytest.mark.parametrize(
    ("broken", "turns"),
    [
        ("of a process that was killed, nothing comes", [Turn(2.0, commands=(KILLED,)), Turn(3.0, (reply(2),))]),
        ("of a process that was killed, nothing comes", [Turn(2.0, (LOST,), (KILLED,)), Turn(3.0, (LOST,))]),
        ("a call is answered once", [Turn(2.0, (reply(1),))]),
        ("a call is answered once", [Turn(2.0, (reply(7),))]),
        ("a call is answered once", [Turn(2.0, (reply(2, "block worker 2#1"),))]),
        ("the events of a turn are", [Turn(2.0, (reply(3), reply(2)))]),
        ("the events of a turn are", [Turn(2.0, (Entry("StorageDone"), reply(2)))]),
        ("the calls of a lane are done", [Turn(2.0, (reply(3, reached=32),)), Turn(3.0, (reply(2, reached=48),))]),
        ("the cluster is seen in the turn after", [Turn(2.0, (Entry("ClusterSeen", cpus=2.0),))]),
        ("storage answers each task once", [Turn(2.0, commands=(Entry("UseStorage"),) * 5)]),
        ("a process is started once", [Turn(2.0, commands=(KILLED, Entry("CallActor", "block worker 1#1", 4)))]),
        ("a process is started once", [Turn(2.0, commands=(Entry("CallActor", "block worker 1#2", 4),))]),
        ("a process that was lost is killed in the same turn", [Turn(2.0, (LOST,))]),
    ],
)  # fmt: skip
def test_a_rule_that_is_broken_is_told(broken, turns):
    assert broken_rules(made_up()) == []
    assert any(line.startswith(broken) for line in broken_rules(made_up(*turns)))


def test_a_reply_that_comes_before_an_earlier_one_of_its_lane_breaks_no_rule():
    trace = made_up(Turn(2.0, (reply(3, reached=48),)), Turn(3.0, (reply(2, reached=32),)))
    assert broken_rules(trace) == []
    assert "a later call of a lane is answered in an earlier turn" in patterns(trace)


def test_a_turn_is_made_of_the_cores_own_events_and_commands(tmp_path):
    recorder, worker = Recorder(), c.Incarnation(c.Slot("block worker", 1), 2)
    call = c.CallActor(7, worker, "lane-1", c.Train(RoundKey(block(1), 32, 16)))
    recorder.turn([], 1.0, [c.StartActor(worker, None, 2), call, c.AskCluster()])
    events = [e.Replied(7, None), e.ActorLost(worker, "made up"), e.ClusterSeen(Resources(2.0, 0), frozenset({"f00"}))]
    turn = recorder.turn(events, 2.0, [c.KillActor(worker), c.UseStorage(c.FlushLog()), c.Log(News(text="untold"))])
    told = (
        Entry("Replied", "block worker 1#2", 7, "Train", "lane-1", "block 1", 32, "NoneType"),
        Entry("ActorLost", "block worker 1#2", cause="made up", constructor_raised=False),
        Entry("ClusterSeen", cpus=2.0, leaving=("node 1",)),
    )
    assert turn == Turn(2.0, told, (Entry("KillActor", "block worker 1#2"), Entry("UseStorage", task="FlushLog")))
    (tmp_path / "trace.jsonl").write_text(write_line(turn))
    assert read_trace(tmp_path / "trace.jsonl") == [turn]
