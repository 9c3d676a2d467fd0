"""Makes golden traces of recorded ones: python thin_out.py FOLDER writes SITUATION-N.jsonl of the N-th coordinator."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from turns import Entry, merged, read_trace, write_line  # noqa: E402

BEFORE_SECONDS, AFTER_SECONDS = 0.4, 0.6
NOTABLE = {"ActorLost", "KillActor", "StartActor", "StorageFailed", "End"}
FROM_OUTSIDE = ("SIG", "stall", "room", "out of memory", "stop", "drain", "raylet", "node added")


class Names:
    """What the things that were seen from outside are called in the trace of one coordinator."""

    def __init__(self, traces, own):
        self.processes, self.nodes = {}, {}
        for number, trace in enumerate(traces, start=1):
            names = json.loads(trace.with_suffix(".names").read_text())
            of = "" if trace == own else f" of coordinator {number}"
            pid = int(trace.stem.rpartition("-")[2])
            self.processes[pid] = f"coordinator {number}"
            self.processes |= {int(pid): name + of for pid, name in names["processes"].items()}
            if trace == own:
                self.nodes = names["nodes"]

    def node(self, node_id):
        return self.nodes.setdefault(node_id, f"node {len(self.nodes) + 1}")

    def entry(self, seen):
        """What was done or seen, without what belongs to one machine alone; None if it tells nothing."""
        kind, target, pid = seen["kind"], seen.get("target"), seen.get("pid")
        what, _, state = kind.partition(": ")
        process = self.processes.get(pid, seen.get("what") or target)
        match what:
            case "process" | "actor":
                if pid not in self.processes:
                    return None
                kinds = {"gone": "process gone", "stopped": "process stopped", "DEAD": "actor dead in Ray's table"}
                return Entry(kinds[state], process) if state in kinds else None
            case "node":
                return Entry(f"node {state} in Ray's table", node=self.node(target))
            case "cores":
                return Entry("cores in Ray's table", cpus=float(state))
            case "draining":
                ids = json.loads(state.replace("'", '"'))
                return Entry("draining in Ray's table", leaving=tuple(sorted(map(self.node, ids))))
        if kind.startswith(("raylet", "node added", "drain")):
            return Entry(kind, node=self.node(target) if target else None, cause=seen.get("said") and str(seen["rc"]))
        return Entry(kind, process=process or None)


def strong(turn):
    """Return True if something happens in a turn that is worth its neighbours, too."""
    return any(each.kind.startswith(FROM_OUTSIDE) for each in turn.outside) or any(
        each.kind in NOTABLE for each in (*turn.events, *turn.commands)
    )


def weak(turn, open_calls):
    """Return True if a turn itself is worth keeping."""
    return bool(
        turn.outside
        or any(each.answer == "WorkerFacts" for each in turn.events)
        or any(each.request == "Ping" for each in (*turn.events, *turn.commands))
        or any(each.call in open_calls for each in turn.commands)
    )


def calls_of_the_dead(turns):
    """Calls that were under way when their process ended, or the coordinator was lost."""
    open_calls, dead = {}, set()
    for turn in turns:
        for each in turn.events:
            open_calls.pop(each.call, None)
        for each in turn.commands:
            if each.kind == "CallActor":
                open_calls[each.call] = each.process
            if each.kind == "KillActor":
                dead |= {call for call, process in open_calls.items() if process == each.process}
    ended = any(each.kind == "End" for turn in turns for each in turn.commands)
    return dead if ended else dead | open_calls.keys()


def cluster_changes(turns):
    """Turns right before and at which the cluster is seen to change."""
    seen = [(turn, (each.cpus, each.leaving)) for turn in turns for each in turn.events if each.kind == "ClusterSeen"]
    pairs = [(one[0], two[0]) for one, two in pairwise(seen) if one[1] != two[1]]
    return [id(one) for one, _ in pairs], [id(two) for _, two in pairs]


def thinned(turns):
    """Without the turns that are far from anything notable; each turn says how many were left out before it."""
    before, changed = cluster_changes(turns)
    moments = [turn.now for turn in turns if strong(turn) or id(turn) in changed]
    dead = calls_of_the_dead(turns)
    kept, made, left_out, answered = [], set(), 0, []
    for turn in turns:
        near = any(moment - BEFORE_SECONDS <= turn.now <= moment + AFTER_SECONDS for moment in moments)
        if near or weak(turn, dead) or id(turn) in before:
            kept.append(replace(turn, left_out=left_out, answered=tuple(answered)))
            made |= {each.call for each in turn.commands if each.kind == "CallActor"}
            left_out, answered = 0, []
        else:
            left_out += 1
            answered += [each.call for each in turn.events if each.call in made]
    return kept


def golden(folder):
    """The golden traces of one situation, by the number of the coordinator."""
    traces = sorted(each for each in folder.glob("run.coordinator-*.jsonl") if each.stat().st_size)
    outside = [json.loads(line) for line in (folder / "outside.jsonl").read_text().splitlines()]
    begins = [read_trace(trace)[0].now for trace in traces] + [float("inf")]
    for number, trace in enumerate(traces, start=1):
        names, began, next_began = Names(traces, trace), *begins[number - 1 : number + 1]
        entries = [(each["now"], names.entry(each)) for each in outside if began - 10 <= each["now"] < next_began]
        whole = merged(read_trace(trace), [(at, entry) for at, entry in entries if entry is not None])
        yield number, [replace(turn, now=turn.now - began, events=told_briefly(turn)) for turn in thinned(whole)]


def told_briefly(turn):
    """Events without the addresses and paths that a cause may name."""
    return tuple(
        each if each.cause is None else replace(each, cause=each.cause.partition(": [")[0]) for each in turn.events
    )


if __name__ == "__main__":
    for situation in sorted(Path(sys.argv[1]).iterdir()):
        if (situation / "outside.jsonl").exists():
            for number, turns in golden(situation):
                file = HERE / f"{situation.name}-{number}.jsonl"
                file.write_text("".join(map(write_line, turns)))
                print(f"{file.name}: {len(turns)} turns, {file.stat().st_size // 1000} kB")
