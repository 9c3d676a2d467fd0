"""What happened in a trace, in terms of order: patterns that some traces have, and rules that none may break.

Both look at a trace alone, so that real runs (`traces/`) and simulated ones are held against each other: what real Ray
does, the simulator must be able to do, and what Ray never does it must not do.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from turns import Entry, Turn

from noprop_dist.engines.core.snapshots import SNAPSHOTS_AT_ONCE

Trace = Sequence[Turn]
AT_ONCE_SECONDS = 0.5
"""Longer than a turn of the loop, with what Ray takes to tell."""
LONG_SECONDS = 1.0
ACTOR_EVENTS = ("Heard", "Replied", "ActorLost")
ORDER_OF_EVENTS = {"Heard": 0, "Replied": 0, "ActorLost": 0, "StorageDone": 1, "StorageFailed": 1, "ClusterSeen": 2,
                   "StopRequested": 3}  # fmt: skip


@dataclass(frozen=True)
class At:
    """An entry, and where it stands: number of the turn, seconds, place among the entries of its kind in that turn."""

    turn: int
    now: float
    place: int
    entry: Entry

    @property
    def position(self) -> tuple[int, int]:
        return self.turn, self.place


class Story:
    """A trace, sorted by what is asked of it.

    Attributes:
        calls: by their numbers.
        replies: in their order.
        losses: likewise; several of one process, if Ray told of it several times.
        starts, kills: of processes.
        seen: what the cluster had.
        outside: what was done to the run, or seen from outside.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        events = list(_entries(trace, "events"))
        commands = list(_entries(trace, "commands"))
        self.events, self.outside = events, list(_entries(trace, "outside"))
        self.replies = [each for each in events if each.entry.kind == "Replied"]
        self.losses = [each for each in events if each.entry.kind == "ActorLost"]
        self.seen = [each for each in events if each.entry.kind == "ClusterSeen"]
        self.calls = {each.entry.call: each for each in commands if each.entry.kind == "CallActor"}
        self.starts = {each.entry.process: each for each in commands if each.entry.kind == "StartActor"}
        self.kills = {each.entry.process: each for each in commands if each.entry.kind == "KillActor"}
        left_out = {
            call: At(number, turn.now, -1, Entry("Replied", call=call))
            for number, turn in enumerate(trace)
            for call in turn.answered
        }
        self.answered = left_out | {each.entry.call: each for each in self.replies}
        self.node_of = {each.entry.process: each.entry.node for each in self.replies if each.entry.node}
        self.gone = {each.entry.process: each for each in self.outside if each.entry.kind == "process gone"}
        self.dead_nodes = {
            each.entry.node: each.now for each in self.outside if each.entry.kind == "node dead in Ray's table"
        }
        self.lost = {each.entry.process: each for each in reversed(self.losses)}  # as it was told first

    def under_way(self, process: str | None, turn: int) -> list[At]:
        """The calls of a process that were made before a turn and are not answered in it or before."""
        return [
            call
            for number, call in self.calls.items()
            if call.entry.process == process
            and call.turn < turn
            and (number not in self.answered or self.answered[number].turn > turn)
        ]

    def lanes(self) -> dict[tuple[str | None, str | None], list[At]]:
        """The replies by process and lane."""
        sorted_replies: dict[tuple[str | None, str | None], list[At]] = {}
        for reply in self.replies:
            sorted_replies.setdefault((reply.entry.process, reply.entry.lane), []).append(reply)
        return sorted_replies

    def successor(self, process: str | None) -> str:
        """The name of the next incarnation."""
        slot, _, number = str(process).rpartition("#")
        return f"{slot}#{int(number) + 1}"


def _entries(trace: Trace, part: str) -> Iterator[At]:
    for number, turn in enumerate(trace):
        for place, entry in enumerate(getattr(turn, part)):
            yield At(number, turn.now, place, entry)


def patterns(trace: Trace) -> set[str]:
    """The names of all patterns that a trace has."""
    story = Story(trace)
    return {name for name, is_there in PATTERNS.items() if is_there(story)}


def broken_rules(trace: Trace) -> list[str]:
    """What a trace does that can never be; empty for a right one."""
    story = Story(trace)
    return [f"{name}: {what}" for name, breaches in RULES.items() for what in breaches(story)]


PATTERNS: dict[str, Callable[[Story], bool]] = {}
RULES: dict[str, Callable[[Story], Iterator[str]]] = {}


def pattern(name: str) -> Callable[[Callable[[Story], bool]], Callable[[Story], bool]]:
    def add(is_there: Callable[[Story], bool]) -> Callable[[Story], bool]:
        PATTERNS[name] = is_there
        return is_there

    return add


def rule(name: str) -> Callable[[Callable[[Story], Iterator[str]]], Callable[[Story], Iterator[str]]]:
    def add(breaches: Callable[[Story], Iterator[str]]) -> Callable[[Story], Iterator[str]]:
        RULES[name] = breaches
        return breaches

    return add


# Losses


@pattern("one loss is told once for each call under way")
def _(story: Story) -> bool:
    told = Counter((loss.entry.process, loss.turn) for loss in story.losses)
    return any(times == len(story.under_way(*where)) > 1 for where, times in told.items())


@pattern("one loss is told for some of the calls under way, and of the others nothing comes")
def _(story: Story) -> bool:
    told = Counter((loss.entry.process, loss.turn) for loss in story.losses)
    return any(times < len(story.under_way(*where)) for where, times in told.items())


@pattern("a reply and the loss of its process are told in one turn, the reply first")
def _(story: Story) -> bool:
    return any(reply.position < loss.position for reply, loss in _reply_with_loss(story))


@pattern("a reply and the loss of its process are told in one turn, the loss first")
def _(story: Story) -> bool:
    return any(reply.position > loss.position for reply, loss in _reply_with_loss(story))


def _reply_with_loss(story: Story) -> Iterator[tuple[At, At]]:
    for process, loss in story.lost.items():
        yield from (
            (reply, loss) for reply in story.replies if reply.entry.process == process and reply.turn == loss.turn
        )


@pattern("an idle process dies, and that is told right after it is called next")
def _(story: Story) -> bool:
    return any(_called_when_dead(story, process, loss) for process, loss in story.lost.items())


def _called_when_dead(story: Story, process: str | None, loss: At) -> bool:
    gone, calls = story.gone.get(process), story.under_way(process, loss.turn)
    return (
        gone is not None
        and bool(calls)
        and all(call.now >= gone.now for call in calls)
        and loss.now - calls[0].now < AT_ONCE_SECONDS
    )


@pattern("a dead process is called, and the call waits until its loss is told")
def _(story: Story) -> bool:
    return any(
        name in story.gone and any(call.now > story.gone[name].now for call in story.under_way(name, loss.turn))
        for name, loss in story.lost.items()
    )


@pattern("an idle process dies, and nothing is ever told of it")
def _(story: Story) -> bool:
    return any(
        each.entry.kind == "SIGKILL"
        and each.entry.process not in story.lost
        and each.entry.process in story.node_of
        and "coordinator" not in str(each.entry.process)
        for each in story.outside
    )


@pattern("two processes are lost in one turn")
def _(story: Story) -> bool:
    return any(times > 1 for times in Counter(loss.turn for loss in story.lost.values()).values())


@pattern("processes of one node are lost in different turns")
def _(story: Story) -> bool:
    lost = {(story.node_of[name], loss.turn) for name, loss in story.lost.items() if name in story.node_of}
    return any(times > 1 for node, times in Counter(node for node, _ in lost).items() if node in story.dead_nodes)


@pattern("processes of one node are lost in one turn")
def _(story: Story) -> bool:
    lost = Counter((story.node_of[name], loss.turn) for name, loss in story.lost.items() if name in story.node_of)
    return any(times > 1 and node in story.dead_nodes for (node, _), times in lost.items())


@pattern("a process answers after the raylet of its node was killed or stopped")
def _(story: Story) -> bool:
    dead = {
        each.entry.node: each.now for each in story.outside if each.entry.kind in ("raylet SIGKILL", "raylet SIGSTOP")
    }
    return any(
        dead.get(story.node_of.get(reply.entry.process), float("inf")) < reply.now - 0.05 for reply in story.replies
    )


@pattern("a process lives on after its node was taken for dead")
def _(story: Story) -> bool:
    dead = story.dead_nodes
    gone = {name: story.gone[name].now if name in story.gone else float("inf") for name in story.node_of}
    return any(
        gone[name] > dead[node] + LONG_SECONDS for name, node in story.node_of.items() if node in story.dead_nodes
    )


@pattern("a loss is told within half a second of the process's death")
def _(story: Story) -> bool:
    return any(
        0 <= loss.now - story.gone[name].now < AT_ONCE_SECONDS
        for name, loss in story.lost.items()
        if name in story.gone
    )


@pattern("a loss is told over a second after the process's death, though a call was under way")
def _(story: Story) -> bool:
    return any(
        name in story.gone
        and loss.now - story.gone[name].now > LONG_SECONDS
        and any(call.now < story.gone[name].now for call in story.under_way(name, loss.turn))
        for name, loss in story.lost.items()
    )


@pattern("a process that never answered is lost")
def _(story: Story) -> bool:
    return any(name not in story.node_of and not loss.entry.constructor_raised for name, loss in story.lost.items())


@pattern("a constructor raises")
def _(story: Story) -> bool:
    return any(loss.entry.constructor_raised for loss in story.losses)


@pattern("a call raises, which is told as a loss though the process lives")
def _(story: Story) -> bool:
    return any(
        name in story.gone and story.gone[name].now > loss.now and story.node_of.get(name) not in story.dead_nodes
        for name, loss in story.lost.items()
        if not loss.entry.constructor_raised
    )


@pattern("a process that was killed lives on for seconds")
def _(story: Story) -> bool:
    return any(
        name in story.gone and story.gone[name].now - kill.now > LONG_SECONDS for name, kill in story.kills.items()
    )


@pattern("the successor is ready before the process that was killed is gone")
def _(story: Story) -> bool:
    ready = {each.entry.process: each.now for each in story.replies if each.entry.node}
    return any(
        name in story.gone and ready.get(story.successor(name), float("inf")) < story.gone[name].now
        for name in story.kills
    )


# Replies


@pattern("a later call of a lane is answered in an earlier turn")
def _(story: Story) -> bool:
    return any(
        later.entry.call < earlier.entry.call
        for replies in story.lanes().values()
        for earlier, later in pairwise(replies)
    )


@pattern("several calls of one lane are answered in one turn")
def _(story: Story) -> bool:
    where = Counter((reply.entry.process, reply.entry.lane, reply.turn) for reply in story.replies)
    return any(times > 1 for times in where.values())


@pattern("one lane goes on while another of the same process is silent for a second")
def _(story: Story) -> bool:
    for number, call in story.calls.items():
        reply = story.answered.get(number)
        until = call.now + LONG_SECONDS if reply is None else reply.now
        if until - call.now >= LONG_SECONDS and call.entry.lane != "control":
            others = [
                each
                for each in story.replies
                if each.entry.process == call.entry.process
                and each.entry.lane not in (call.entry.lane, "control")
                and call.now < each.now < until
            ]
            if others:
                return True
    return False


@pattern("a process that was stopped for a moment answers when it goes on")
def _(story: Story) -> bool:
    stopped = {each.entry.process: each.now for each in story.outside if each.entry.kind == "SIGSTOP"}
    goes_on = {each.entry.process: each.now for each in story.outside if each.entry.kind == "SIGCONT"}
    return any(
        any(reply.entry.process == name and reply.now >= at for reply in story.replies)
        and not any(reply.entry.process == name and stopped[name] + 0.3 < reply.now < at for reply in story.replies)
        for name, at in goes_on.items()
        if name in stopped
    )


@pattern("a ping is answered while a round is under way")
def _(story: Story) -> bool:
    return any(reply.entry.request == "Ping" for reply in story.replies)


@pattern("a ping is not answered")
def _(story: Story) -> bool:
    return any(
        call.entry.request == "Ping" and number not in story.answered and _is_killed_after(story, call)
        for number, call in story.calls.items()
    )


def _is_killed_after(story: Story, call: At) -> bool:
    kill = story.kills.get(call.entry.process)
    return kill is not None and kill.turn > call.turn


@pattern("a round is answered with nothing after a stop")
def _(story: Story) -> bool:
    return any(reply.entry.request == "Train" and reply.entry.answer == "NoneType" for reply in story.replies)


@pattern("a process answers its first call only after the cluster had room for it")
def _(story: Story) -> bool:
    room = [each.now for each in story.outside if each.entry.kind in ("room", "node added")]
    first = [each for each in story.replies if each.entry.request == "DescribeYourself"]
    return any(story.starts[each.entry.process].now < at < each.now for each in first for at in room)


@pattern("a process that finds no room is killed before it exists, and asked for again")
def _(story: Story) -> bool:
    return any(
        name not in story.node_of and name not in story.lost and story.successor(name) in story.starts
        for name in story.kills
    )


# Storage and cluster


@pattern("a write is told of with a reply")
def _(story: Story) -> bool:
    return any({"Replied", "StorageDone"} <= {each.kind for each in turn.events} for turn in story.trace)


@pattern("a write is told of alone")
def _(story: Story) -> bool:
    return any([each.kind for each in turn.events] == ["StorageDone"] for turn in story.trace)


@pattern("a write is told of with a loss")
def _(story: Story) -> bool:
    return any({"ActorLost", "StorageDone"} <= {each.kind for each in turn.events} for turn in story.trace)


@pattern("cores shrink before a loss is told")
def _(story: Story) -> bool:
    return any(_shrinks(story, loss.position, before=True) for loss in story.lost.values())


@pattern("cores shrink after a loss is told")
def _(story: Story) -> bool:
    return any(_shrinks(story, loss.position, before=False) for loss in story.lost.values())


def _shrinks(story: Story, position: tuple[int, int], before: bool) -> bool:
    for one, next_one in pairwise(story.seen):
        fewer = (next_one.entry.cpus or 0) < (one.entry.cpus or 0)
        if fewer and (next_one.position < position if before else one.position < position < next_one.position):
            return True
    return False


@pattern("cores grow before the loss of a process whose place they take is told")
def _(story: Story) -> bool:
    return any(
        (b.entry.cpus or 0) > (a.entry.cpus or 0) and b.position < loss.position
        for a, b in pairwise(story.seen)
        for loss in story.lost.values()
    )


@pattern("cores grow")
def _(story: Story) -> bool:
    return any((b.entry.cpus or 0) > (a.entry.cpus or 0) for a, b in pairwise(story.seen))


@pattern("a node is lost, and the cores that are seen never change")
def _(story: Story) -> bool:
    lost = any(story.node_of.get(name) in story.dead_nodes for name in story.lost)
    return lost and len({each.entry.cpus for each in story.seen}) == 1


@pattern("a node is seen leaving, and its worker is ended before it is lost")
def _(story: Story) -> bool:
    return any(_seen_leaving(story, name, kill.turn) and name not in story.lost for name, kill in story.kills.items())


@pattern("a node is seen leaving, and its worker is lost before it is ended")
def _(story: Story) -> bool:
    return any(_seen_leaving(story, name, loss.turn) for name, loss in story.lost.items())


def _seen_leaving(story: Story, process: str | None, turn: int) -> bool:
    node = story.node_of.get(process)
    return node is not None and any(node in (each.entry.leaving or ()) and each.turn <= turn for each in story.seen)


@pattern("a node leaves, and its worker is lost before it is seen leaving")
def _(story: Story) -> bool:
    asked = {each.entry.node for each in story.outside if each.entry.kind == "drain answered"}
    return any(
        story.node_of.get(name) in asked and not _seen_leaving(story, name, loss.turn)
        for name, loss in story.lost.items()
    )


@pattern("a leaving node's cores do not count")
def _(story: Story) -> bool:
    return any(b.entry.leaving and not a.entry.leaving and a.entry.cpus > b.entry.cpus for a, b in pairwise(story.seen))


# Coordinators


@pattern("a coordinator is gone, with calls under way")
def _(story: Story) -> bool:
    ended = any(each.kind == "End" for turn in story.trace for each in turn.commands)
    return not ended and any(number not in story.answered for number in story.calls)


@pattern("a worker of an earlier coordinator is still there when this one begins")
def _(story: Story) -> bool:
    return any("of coordinator" in str(name) and gone.turn > 0 for name, gone in story.gone.items())


# Rules


@rule("of a process that was killed, nothing comes")
def _(story: Story) -> Iterator[str]:
    for each in story.events:
        kill = story.kills.get(each.entry.process)
        if each.entry.kind in ACTOR_EVENTS and kill is not None and each.turn > kill.turn:
            yield f"{each.entry} at {each.now}"


@rule("a call is answered once, by the process that was called, and after it was made")
def _(story: Story) -> Iterator[str]:
    for number, times in Counter(each.entry.call for each in story.replies).items():
        if times > 1:
            yield f"call {number}: {times} replies"
    for reply in story.replies:
        call = story.calls.get(reply.entry.call)
        if call is None:
            if not _may_be_left_out(story, reply):
                yield f"no call: {reply.entry}"
        elif call.turn >= reply.turn or call.entry.process != reply.entry.process:
            yield f"{call.entry} and {reply.entry}"


def _may_be_left_out(story: Story, reply: At) -> bool:
    return any(turn.left_out for turn in story.trace[: reply.turn + 1])


@rule("the events of a turn are replies and losses by the number of the call, then storage, cluster, stop")
def _(story: Story) -> Iterator[str]:
    for turn in story.trace:
        order = [ORDER_OF_EVENTS[each.kind] for each in turn.events]
        calls = [each.call for each in turn.events if each.call is not None]
        if order != sorted(order) or calls != sorted(calls):
            yield f"at {turn.now}"


@rule("the calls of a lane are done in order, whatever the order of the replies")
def _(story: Story) -> Iterator[str]:
    stages: dict[tuple[str | None, str | None], list[Entry]] = {}
    for reply in story.replies:
        if reply.entry.reached is not None:
            stages.setdefault((reply.entry.process, reply.entry.stage), []).append(reply.entry)
    for (process, stage), entries in stages.items():
        reached = [each.reached for each in sorted(entries, key=lambda each: each.call or 0)]
        if any(b < a for a, b in pairwise(reached)):  # type: ignore[operator]
            yield f"{process}, {stage}: {reached}"


@rule("the cluster is seen in the turn after it was asked for, and only then")
def _(story: Story) -> Iterator[str]:
    for before, turn in pairwise(story.trace):
        asked = any(each.kind == "AskCluster" for each in before.commands)
        seen = any(each.kind == "ClusterSeen" for each in turn.events)
        if asked != seen and not turn.left_out and not (asked and not turn.events):
            yield f"at {turn.now}"


@rule("storage answers each task once, and at most four are under way")
def _(story: Story) -> Iterator[str]:
    under_way: int | None = 0  # None where that is not known: turns are left out
    for turn in story.trace:
        under_way = None if turn.left_out else under_way
        for event in turn.events if under_way is not None else ():
            if event.kind == "StorageDone":
                under_way -= 1
            elif event.kind == "StorageFailed":
                under_way = 0  # those beside it are begun again, too
        if under_way is not None:
            under_way += sum(command.kind == "UseStorage" for command in turn.commands)
            if not 0 <= under_way <= SNAPSHOTS_AT_ONCE:
                yield f"{under_way} tasks at {turn.now}"


@rule("a process is started once, and called only between its start and its end")
def _(story: Story) -> Iterator[str]:
    for number, call in story.calls.items():
        start, kill = story.starts.get(call.entry.process), story.kills.get(call.entry.process)
        late = kill is not None and call.position > kill.position
        if (
            late
            or (start is None and not story.trace[0].left_out)
            or (start is not None and call.position < start.position)
        ):
            yield f"call {number}"


@rule("a process that was lost is killed in the same turn")
def _(story: Story) -> Iterator[str]:
    for process, loss in story.lost.items():
        if process not in story.kills or story.kills[process].turn != loss.turn:
            yield f"{process} at {loss.now}"
