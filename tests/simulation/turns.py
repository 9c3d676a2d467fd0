"""A trace: what a core was told and what it said, turn by turn, in a real run or in a simulated one."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core import events as e
from noprop_dist.engines.core.run import Run
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.messages import WorkerFacts


@dataclass(frozen=True)
class Entry:
    """One event, one command, or one thing that was done or seen from outside; what does not apply is None.

    Attributes:
        kind: the event's or command's class, or what was done from outside, as "SIGKILL".
        process: "block worker 2#3", the third incarnation of that slot.
        call: its number.
        request: class of the request.
        lane: of the call.
        stage: that the request is about.
        step: that a round begins at, that is measured, or that the run ended with.
        answer: class of the reply's value.
        reached: step that a stage has reached with a round, or that a snapshot is of.
        cause: of a loss or a failure.
        constructor_raised: of a loss.
        node: where a process says that it is, or that something was done to.
        cpus: that the cluster has.
        leaving: nodes that are about to leave.
        task: class of the storage task.
    """

    kind: str
    process: str | None = None
    call: int | None = None
    request: str | None = None
    lane: str | None = None
    stage: str | None = None
    step: int | None = None
    answer: str | None = None
    reached: int | None = None
    cause: str | None = None
    constructor_raised: bool | None = None
    node: str | None = None
    cpus: float | None = None
    leaving: tuple[str, ...] | None = None
    task: str | None = None


@dataclass(frozen=True)
class Turn:
    """One call of `Run.decide`.

    Attributes:
        now: seconds.
        events: in the order in which the core got them.
        commands: in the order in which it gave them, without `Log`.
        outside: what was done to the run, or seen of it, since the turn before.
        left_out: turns that are missing before this one, because nothing but training went on in them.
        answered: calls that are in the trace and whose replies came in those turns.
    """

    now: float
    events: tuple[Entry, ...] = ()
    commands: tuple[Entry, ...] = ()
    outside: tuple[Entry, ...] = ()
    left_out: int = 0
    answered: tuple[int, ...] = ()


class Recorder:
    """Makes turns of what goes through `Run.decide`.

    Attributes:
        nodes: names of the nodes by their ids, in the order in which they were met.
        processes: names of the processes by their pids.
    """

    def __init__(self) -> None:
        self._calls: dict[int, c.CallActor] = {}
        self.nodes: dict[str, str] = {}
        self.processes: dict[int, str] = {}

    def turn(self, events: Sequence[e.Event], now: float, commands: Sequence[c.Command]) -> Turn:
        """The turn in which a core was told these events at `now` and gave these commands."""
        seen = tuple(self._event(each) for each in events)  # before the commands: a call is made before its reply
        self._calls |= {each.call: each for each in commands if isinstance(each, c.CallActor)}
        given = tuple(self._command(each) for each in commands if not isinstance(each, c.Log))
        return Turn(now, seen, given)

    def _event(self, event: e.Event) -> Entry:
        match event:
            case e.Replied(number, value):
                return self._reply(number, value)
            case e.ActorLost(process, cause, constructor_raised):
                return Entry("ActorLost", name_of(process), cause=cause, constructor_raised=constructor_raised)
            case e.ClusterSeen(resources, leaving):
                nodes = tuple(sorted(self._node(each) for each in leaving))
                return Entry("ClusterSeen", cpus=resources.cpus, leaving=nodes)
            case e.StorageFailed(cause):
                return Entry("StorageFailed", cause=cause)
        return Entry(type(event).__name__)

    def _reply(self, number: int, value: Any) -> Entry:
        asked = self._call(self._calls.pop(number))
        value = value[1] if isinstance(value, tuple) else value  # a version of W_embed and its report
        node = None
        if isinstance(value, WorkerFacts):
            node = self._node(value.node_id)
            self.processes |= dict.fromkeys(value.replica_pids, f"replica of {asked.process}")
            self.processes[value.pid] = asked.process
        reached = getattr(value, "steps_done", value.step if isinstance(value, Snapshot) else None)
        return replace(asked, kind="Replied", answer=type(value).__name__, reached=reached, node=node)

    def _command(self, command: c.Command) -> Entry:
        match command:
            case c.StartActor(process) | c.KillActor(process):
                return Entry(type(command).__name__, name_of(process))
            case c.CallActor():
                return self._call(command)
            case c.UseStorage(task):
                return Entry("UseStorage", task=type(task).__name__)
            case c.End(step, error=error):
                return Entry("End", step=step, cause=error)
        return Entry(type(command).__name__)

    def _call(self, call: c.CallActor) -> Entry:
        request = call.request
        about = request.round if isinstance(request, c.Train) else request
        about = request.update if isinstance(request, c.UpdateEmbedding) else about
        stage, step = getattr(about, "stage", None), getattr(about, "first_step", getattr(about, "step", None))
        return Entry(
            "CallActor",
            name_of(call.process),
            call.call,
            type(request).__name__,
            call.lane,
            None if stage is None else stage.name,
            step,
        )

    def _node(self, node_id: str) -> str:
        return self.nodes.setdefault(node_id, f"node {len(self.nodes) + 1}")


def name_of(process: c.Incarnation) -> str:
    return f"{process.slot.name}#{process.number}"


@contextmanager
def recorded(sink: Callable[[Turn], None]) -> Iterator[Recorder]:
    """A `with` in which every turn of a core of this process goes to `sink`, too."""
    decide, recorder = Run.decide, Recorder()

    def noted(run: Run, events: Sequence[e.Event], now: float) -> list[c.Command]:
        events = list(events)
        commands = decide(run, events, now)
        sink(recorder.turn(events, now, commands))
        return commands

    Run.decide = noted  # type: ignore[method-assign]
    try:
        yield recorder
    finally:
        Run.decide = decide  # type: ignore[method-assign]


def merged(turns: Iterable[Turn], outside: Iterable[tuple[float, Entry]]) -> list[Turn]:
    """Turns with what was done or seen from outside before each of them, by its time."""
    left, whole = sorted(outside, key=lambda each: each[0]), []
    for turn in turns:
        seen = tuple(entry for at, entry in left if at <= turn.now)
        left = left[len(seen) :]
        whole.append(replace(turn, outside=seen))
    if left:  # after the last turn
        whole.append(Turn(left[-1][0], outside=tuple(entry for _, entry in left)))
    return whole


def write_line(turn: Turn) -> str:
    """One line of a trace."""
    parts: dict[str, Any] = {"now": round(turn.now, 2)}
    for name in ("left_out", "answered"):
        if value := getattr(turn, name):
            parts[name] = value
    for name in ("outside", "events", "commands"):
        if entries := getattr(turn, name):
            parts[name] = [{k: v for k, v in asdict(each).items() if v is not None} for each in entries]
    return json.dumps(parts, separators=(",", ":")) + "\n"


def read_trace(file: Path) -> list[Turn]:
    """The turns of a file."""
    return [_turn(json.loads(line)) for line in file.read_text().splitlines()]


def _turn(parts: Mapping[str, Any]) -> Turn:
    entries = (_entries(parts.get(name, ())) for name in ("events", "commands", "outside"))
    return Turn(parts["now"], *entries, parts.get("left_out", 0), tuple(parts.get("answered", ())))


def _entries(parts: Iterable[Mapping[str, Any]]) -> tuple[Entry, ...]:
    known = {each.name for each in fields(Entry)}
    assert all(part.keys() <= known for part in parts)
    return tuple(Entry(**{k: tuple(v) if isinstance(v, list) else v for k, v in part.items()}) for part in parts)
