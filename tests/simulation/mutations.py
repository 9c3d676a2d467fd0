"""The engine broken by hand, in one place at a time, as a programmer might have got it wrong.

Each function takes what it replaces, and gives what takes its place. Its docstring is the mistake.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from noprop_dist.engines.core import commands as c
from noprop_dist.engines.core import recovery
from noprop_dist.engines.core.actor_pool import ActorPool, Ready, Starting
from noprop_dist.engines.core.assignment import Assignment, Load
from noprop_dist.engines.core.dispatch import Dispatch
from noprop_dist.engines.core.evaluations import Evaluations
from noprop_dist.engines.core.events import ActorLost
from noprop_dist.engines.core.failure_policy import CoordinatorLosses, back_off_seconds
from noprop_dist.engines.core.round_queue import RoundQueue
from noprop_dist.engines.core.run import Run
from noprop_dist.engines.core.snapshots import Snapshots
from noprop_dist.engines.core.stage import StageRun
from noprop_dist.engines.storage_thread import StorageThread
from noprop_dist.errors import UserError
from noprop_dist.records import CheckpointCompleted
from noprop_dist.storage import checkpoint_writer, checkpoints, lock, run_directory
from noprop_dist.storage.checkpoint_writer import CheckpointWriter
from noprop_dist.storage.checkpoints import Checkpoints
from noprop_dist.storage.local_files import LocalFiles
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import OPTIMIZER, WEIGHTS, from_files
from noprop_dist.training.embedding import EmbeddingExchange


@dataclass(frozen=True)
class Mutation:
    """One change for the worse.

    Attributes:
        name: of it.
        mistake: what a programmer might have got wrong.
        owner: class or module of what is replaced.
        attribute: its name there.
        make: takes what is replaced, gives what takes its place.
    """

    name: str
    mistake: str
    owner: Any
    attribute: str
    make: Callable[[Any], Any]

    def made(self):
        """A `with` in which it is made."""
        return patch.object(self.owner, self.attribute, self.make(getattr(self.owner, self.attribute)))


MUTATIONS: dict[str, Mutation] = {}
HARMLESS = {
    "blocks never move": "a run takes longer, and is no less right",
    "nobody looks at the lock again": "the renewal of a lease looks, too, and a directory is not deleted under a run",
    "late replies are believed": "none come: `RayActors` forgets the calls of a process that it kills",
}
"""Mutations that the simulator does not find, and why not."""


def mutation(owner, attribute):
    """Make a mutation of a function; see the module."""

    def add(make):
        name = make.__name__.replace("_", " ")
        MUTATIONS[name] = Mutation(name, make.__doc__, owner, attribute, make)
        return make

    return add


# Actors and what is heard of them


@mutation(ActorPool, "answered")
def replies_as_they_come(original):
    """Ray's replies are taken in the order in which they come, not in that of their calls."""

    def answered(self, number, value, now):
        if number not in self._lane_of_call:
            return
        slot, lane = self._lane_of_call.pop(number)
        call = next(each for each in slot.calls[lane] if each.number == number)
        slot.calls[lane].remove(call)
        slot.heard[lane] = now
        yield self._in_turn(slot, call, value)

    return answered


@mutation(ActorPool, "end")
def late_replies_are_believed(original):
    """The calls of a lost incarnation are not forgotten, so a reply that comes after its loss counts."""

    def end(self, slot, state):
        late = {call.number: call for each in slot.calls.values() for call in each}
        original(self, slot, state)
        in_time = self.answered

        def answered(number, value, now):
            call = late.pop(number, None)
            return in_time(number, value, now) if call is None else iter([self._in_turn(slot, call, value)])

        self.answered = answered

    return end


@mutation(ActorPool, "end")
def calls_of_the_lost_are_waited_for(original):
    """The calls of a lost incarnation stay in their lanes, and the next one's replies wait behind them."""

    def end(self, slot, state):
        slot.answers.clear()
        if isinstance(slot.state, Starting | Ready):
            self._outbox.append(c.KillActor(slot.process))
        slot.state, slot.leaving = state, False

    return end


@mutation(Run, "_handle")
def each_lost_call_is_a_loss(original):
    """Ray tells of a lost actor once for each call under way, and each of them is taken for a loss."""

    def handle(self, event, now):
        if isinstance(event, ActorLost):
            slot = self._parts.pool.slots[event.process.slot]
            recovery.actor_lost(self._parts, slot, "died", event.cause, now)
        else:
            original(self, event, now)

    return handle


@mutation(recovery, "actor_lost")
def a_loss_is_charged_twice(original):
    """The stage at work is charged where a loss is told, and once more where it goes back."""

    def actor_lost(parts, slot, reason, cause, now, lane=None, constructor_raised=False):
        at_work = parts.pool.at_work_on(slot, lane)
        original(parts, slot, reason, cause, now, lane, constructor_raised)
        if at_work is not None:
            parts.stages[at_work].losses[False] += 1

    return actor_lost


@mutation(recovery, "lose_silent_actors")
def hangs_go_unnoticed(original):
    """Nobody looks for actors that do not answer."""
    return lambda parts, now: None


@mutation(ActorPool, "ping_silent")
def nobody_is_pinged(original):
    """Only the time of a round is bounded; whether the process is there at all is not asked."""
    return lambda self, hang_seconds, now: None


# Rounds and snapshots


@mutation(RoundQueue, "idle")
def snapshots_in_flight_are_forgotten(original):
    """A stage counts as idle while a snapshot that was asked for is still under way."""
    return property(lambda self: self._rounds_in_flight == 0)


@mutation(RoundQueue, "next_round")
def no_stage_pauses(original):
    """A stage goes on however many of its snapshots are not written yet."""
    return lambda self, unsaved_snapshots, up_to=None: original(self, -100, up_to)


@mutation(RoundQueue, "next_round")
def more_rounds_than_prefetch(original):
    """The bound on rounds in flight is forgotten."""

    def next_round(self, unsaved_snapshots, up_to=None):
        rounds, self._rounds_in_flight = self._rounds_in_flight, 0
        work = original(self, unsaved_snapshots, up_to)
        self._rounds_in_flight += rounds
        return work

    return next_round


def _send_with(ask_before):
    def send(self, now, up_to=None):
        for stage_run in self._stages.values():
            if stage_run.worker is None or stage_run.leaving:
                continue
            was_at_snapshot = False
            while (
                work := stage_run.queue.next_round(
                    self._snapshots.unwritten(stage_run.stage), self._limit(stage_run, up_to)
                )
            ) is not None:
                if ask_before and stage_run.queue.at_snapshot:
                    self.ask_snapshot(stage_run, now)
                self._call(stage_run, self._request(stage_run, *work), now)
                if not ask_before and was_at_snapshot:
                    self.ask_snapshot(stage_run, now)
                was_at_snapshot = stage_run.queue.at_snapshot

    return send


@mutation(Dispatch, "send")
def snapshots_are_asked_a_round_too_early(original):
    """A snapshot is asked for before the round that leads to it."""
    return _send_with(ask_before=True)


@mutation(Dispatch, "send")
def snapshots_are_asked_a_round_too_late(original):
    """A snapshot is asked for after the round that follows the one that leads to it."""
    return _send_with(ask_before=False)


@mutation(StageRun, "reported")
def replays_are_written_twice(original):
    """A round that is done again after a loss is written down again."""

    def reported(self, *more):
        original(self, *more)
        return True

    return reported


@mutation(StageRun, "taken_in")
def a_step_is_done_twice_after_a_move(original):
    """A stage that another worker takes in begins one step before its snapshot."""
    return lambda self, worker, step: original(self, worker, max(step - 1, 0))


@mutation(Run, "_move_stages")
def blocks_move_without_a_snapshot(original):
    """A block that moves is taken off its worker before its snapshot was asked for, and does its steps again."""

    def move_stages(self, now):
        for stage_run in self.stages.values():
            if stage_run.leaving and stage_run.queue.idle:
                self._parts.assignment.let_go(stage_run, now)
        original(self, now)

    return move_stages


@mutation(ActorPool, "leaving")
def blocks_stay_on_a_node_that_leaves(original):
    """What the cluster says of nodes that leave is heard, and no block is moved."""
    return lambda self: []


@mutation(Assignment, "plan_moves")
def blocks_never_move(original):
    """Blocks stay on the worker that they are on, whatever the others have to do."""
    return lambda self, now: []


@mutation(Load, "has_room")
def workers_take_in_too_many_blocks(original):
    """`engine.blocks_per_worker` is not heeded."""
    return property(lambda self: True)


# A learned W_embed


@mutation(Dispatch, "publish")
def versions_are_forgotten_too_early(original):
    """Versions of W_embed are forgotten once all stages have trained beyond them, though not saved."""

    def publish(self, version):
        self._exchange.publish(version)
        self._exchange.forget_before(min(each.queue.steps_done for each in self._stages.values()))

    return publish


@mutation(EmbeddingExchange, "gather")
def replayed_gradients_are_added(original):
    """The gradient that a replay brings again is added to the one that is there."""

    def gather(self, stage, steps_done, gradient):
        known = self._gathered.get((steps_done - 1) // self._sync_steps, {}).get(stage, 0)
        original(self, stage, steps_done, gradient + known)

    return gather


@mutation(CheckpointWriter, "take_over")
def stages_that_share_W_embed_go_on_from_steps_of_their_own(original):
    """Each stage goes on from its own newest snapshot, though all share W_embed."""

    def take_over(self):
        together, self._together_at = self._together_at, None
        try:
            return original(self)
        finally:
            self._together_at = together

    return take_over


# What is written


@mutation(Snapshots, "failed")
def failed_tasks_are_dropped(original):
    """A storage task that failed is not done again."""

    def failed(self, now):
        original(self, now)
        self._keep([*self._tasks][1:])

    return failed


@mutation(StorageThread, "_flushed")
def the_log_is_written_after_snapshots(original):
    """A snapshot is written before the records of the steps that lead to it."""

    def flushed(self):
        return self._log_writer.submit(lambda: None)

    return flushed


@mutation(CheckpointWriter, "add")
def a_manifest_without_one_stage(original):
    """A checkpoint counts as complete while one of its snapshots is missing."""

    def add(self, snapshot, entry=None, **options):
        complete, step = original(self, snapshot, entry, **options), snapshot.step
        there = [self._entries[stage, step] for stage in self._names if (stage, step) in self._entries]
        if step in self._checkpoint_steps and len(there) == len(self._names) - 1:
            self._files.complete(there, self._blocks, self._changes)
        return complete

    return add


@mutation(checkpoint_writer, "SNAPSHOTS_KEPT")
def superseded_snapshots_are_deleted_too_early(original):
    """Only the newest snapshot of a stage is kept; if it is damaged, the stage begins anew."""
    return 1


@mutation(Checkpoints, "save")
def the_entry_is_written_first(original):
    """A snapshot's entry, which makes it count, is written before its files."""

    def save(self, snapshot, blocks, trained_with):
        held = {}
        with patch.object(self._store, "write_all", held.update):
            entry = original(self, snapshot, blocks, trained_with)
        self._store.write_all(held)
        return entry

    return save


@mutation(Run, "_stored")
def checkpoints_are_pruned_before_they_are_measured(original):
    """Old checkpoints are deleted as soon as a new one is complete, though the evaluator may still read them."""

    def stored(self, event, now):
        original(self, event, now)
        if any(isinstance(each, c.Log) and isinstance(each.record, CheckpointCompleted) for each in self._parts.outbox):
            self._parts.snapshots.prune(self._plan.total_steps, self._parts.evaluations.best)

    return stored


@mutation(LocalFiles, "_write_all")
def files_are_not_synced(original):
    """What is written is not synced before it gets its name."""

    def write_all(self, descriptor, content):
        left = memoryview(content)
        while left:
            left = left[self.system.write(descriptor, left) :]

    return write_all


@mutation(LocalFiles, "write")
def names_are_not_synced(original):
    """A file is synced, and the folder that has its name is not."""

    def write(self, name, content):
        calls = type("Calls", (), {})()
        calls.__dict__ = {each: getattr(self.system, each) for each in dir(self.system) if each[0] != "_"}
        folders, sync = set(), calls.fsync

        def open_(path, flags, *more, **named):
            descriptor = self_system.open(path, flags, *more, **named)
            if flags & os.O_DIRECTORY:
                folders.add(descriptor)
            else:
                folders.discard(descriptor)
            return descriptor

        self_system, calls.open = self.system, open_
        calls.fsync = lambda descriptor: None if descriptor in folders else sync(descriptor)
        with patch.object(self, "system", calls):
            original(self, name, content)

    return write


@mutation(LocalFiles, "write")
def files_are_written_in_place(original):
    """A file is written under its own name, not under another one that it is renamed from."""

    def write(self, name, content):
        descriptor = self.open(name, os.O_WRONLY | os.O_CREAT)
        try:
            self.system.ftruncate(descriptor, 0)
            self._write_all(descriptor, content)
        finally:
            self.system.close(descriptor)

    return write


@mutation(LocalFiles, "_cut_off")
def torn_appends_stay(original):
    """What a full disk took of an append is not cut off."""
    return lambda self, name, descriptor, size: size


# What a resume reads


@mutation(Checkpoints, "load")
def the_newest_snapshot_is_believed(original):
    """A resume goes on from the newest snapshot, and compares no checksum."""

    def load(self, entry):
        try:
            return from_files(
                entry.name, *(self._content(entry.step, entry.name + end) for end in (WEIGHTS, OPTIMIZER))
            )
        except ValueError as error:
            raise UserError(str(error)) from error

    return load


@mutation(checkpoints, "check_checksum")
def entries_are_believed(original):
    """The checksums of entries and manifests are not compared."""
    return lambda values: None


@mutation(run_directory, "_is_done_again")
def rounds_that_are_done_again_are_not_forgotten(original):
    """A resume leaves the records of all rounds in metrics.jsonl."""
    return lambda record, done: False


@mutation(run_directory, "counted_once")
def rounds_that_are_there_twice_count_twice(original):
    """Nobody looks whether a round is in metrics.jsonl twice."""
    return list


# Who writes


@mutation(lock, "_await_free")
def a_lease_is_taken_at_once(original):
    """Whoever wants a lease takes it, without waiting for its owner."""
    return lambda store, say: None


@mutation(lock, "RENEW_SECONDS")
def a_lease_is_hardly_renewed(original):
    """A lease is renewed less often than it ends."""
    return 2 * lock.LEASE_SECONDS


@mutation(RunDirectory, "must_stay")
def nobody_looks_at_the_lock_again(original):
    """The lock is looked at when it is taken, and not before each write."""
    return lambda self: None


# How a run ends


@mutation(Run, "_wind_down")
def a_stop_does_not_wait_for_the_last_snapshots(original):
    """A run that is to stop ends once its snapshots have come, written or not."""

    def wind_down(self, now):
        self._stopping.advance(now)
        if now < self._stopping.deadline and self._stopping.holds_stages:
            return
        self._end(None)

    return wind_down


@mutation(Run, "_wind_down")
def a_stop_takes_no_snapshots(original):
    """A run that is to stop ends at once, at the snapshots that it has."""

    def wind_down(self, now):
        for stage_run in self.stages.values():
            if stage_run.worker is not None:
                self._parts.assignment.take_off(stage_run, now)
        original(self, now)

    return wind_down


@mutation(Evaluations, "evaluator_lost")
def an_evaluation_is_not_asked_for_again(original):
    """The checkpoint that the lost evaluator was at is forgotten."""

    def evaluator_lost(self, by_cloud):
        self._under_way = None
        return []

    return evaluator_lost


@mutation(Evaluations, "evaluator_lost")
def an_evaluation_is_asked_for_twice_again(original):
    """The checkpoint that the lost evaluator was at is put into the queue where it is lost, and where it starts."""

    def evaluator_lost(self, by_cloud):
        step, left_out = self._under_way, original(self, by_cloud)
        if step is not None and not left_out:
            self._waiting.appendleft(step)
        return left_out

    return evaluator_lost


@mutation(CoordinatorLosses, "lost")
def coordinators_without_a_budget(original):
    """A coordinator that dies is started again however often it dies."""

    def lost(self):
        self._in_row += 1
        return back_off_seconds(self._in_row - 1)

    return lost


@mutation(CoordinatorLosses, "lost")
def no_second_coordinator(original):
    """The driver ends with its coordinator."""
    return lambda self: None
