"""Makes checkpoints of the whole network from snapshots of single stages, and deletes what nobody needs any more."""

from bisect import insort
from collections.abc import Callable, Collection, Mapping, Sequence

from noprop_dist.errors import UserError
from noprop_dist.models.custom import Source
from noprop_dist.stages import Stage
from noprop_dist.storage.checkpoints import Checkpoints, bits_software
from noprop_dist.storage.identity import OtherRunError, other_sources
from noprop_dist.storage.manifest import Manifest, SettingChange, SnapshotEntry
from noprop_dist.storage.snapshot import Snapshot

SNAPSHOTS_KEPT = 2
"""For each stage, whatever else is deleted: the newest, and the one before it in case the newest is damaged."""
WAITING_KEPT = 8
"""Of a stage that runs ahead: snapshots of checkpoint steps that others have not come to, beside its newest ones."""


class CheckpointWriter:
    """Collects each stage's snapshots, in any order of stages, into whole checkpoints.

    Args:
        files: of the run.
        stages: that the run trains.
        blocks: T.
        checkpoint_steps: steps at which all stages' snapshots make a checkpoint.
        num_to_keep: complete checkpoints that are kept.
        changes: of settings, so far; manifests repeat them.
        together_at: if stages share a learned W_embed, the steps at which all can go on together. Else None.
        device: that the stages are trained on, "cpu" or "cuda".
        sources: of the networks of the user's own, by stage and import path.
        begins_with: what every stage's snapshot of step 0 is from; None if a stage without a snapshot begins anew.
        ends_version: if stages share a learned W_embed, whether a version of it ends at a step.
    """

    def __init__(
        self,
        files: Checkpoints,
        stages: Sequence[Stage],
        blocks: int,
        checkpoint_steps: Sequence[int],
        num_to_keep: int,
        changes: Sequence[SettingChange] = (),
        together_at: Sequence[int] | None = None,
        device: str = "cpu",
        *,
        sources: Mapping[Stage, Mapping[str, Source]] | None = None,
        begins_with: str | None = None,
        ends_version: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self._files = files
        self._ends_version = ends_version
        self._left_behind: list[int] = []
        self._begins_with = begins_with
        self._blocks = blocks
        self._names = {stage: stage.file(blocks) for stage in stages}
        self._checkpoint_steps = {step: number for number, step in enumerate(sorted(checkpoint_steps), start=1)}
        self._num_to_keep = num_to_keep
        self._changes = changes
        self._together_at = together_at
        self._software, self._sources = bits_software(device), sources or {}
        self._saved: dict[Stage, list[int]] = {stage: [] for stage in stages}
        self._entries: dict[tuple[Stage, int], SnapshotEntry] = {}
        self._complete: list[int] = []
        self._emptied: set[int] = set()
        """Steps of which a stage has deleted its snapshot; once none is left, their folders can go."""
        self._given_up: set[Stage] = set()
        self._spacing = 1
        self._news: list[str] = []

    def take_over(self) -> tuple[dict[Stage, Snapshot], list[str]]:
        """Go on where an earlier process stopped.

        If all snapshots of a checkpoint are there and its manifest is missing or damaged, the manifest is written anew.

        Returns:
            Each stage's newest undamaged snapshot (none at all if stages go on together, and one has none), and
            warnings: of damaged ones, and of bits that may differ.

        Raises:
            OtherRunError: a snapshot is of another run.
            OSError: the storage cannot be read or written.
        """
        found = self._files.saved_steps()
        steps = {stage: found.get(name, []) for stage, name in self._names.items()}
        if self._together_at is not None:
            common = set.intersection(*(set(each) for each in steps.values()))
            self._left_behind = [step for step in common if not self._ends_version(step)]
            common.difference_update(self._left_behind)
            steps = {stage: [step for step in each if step in common] for stage, each in steps.items()}
        snapshots, warnings = self._newest(steps)
        snapshots = self._of_one_beginning(snapshots, warnings)
        for stage, snapshot in snapshots.items():
            self._saved[stage] = [step for step in steps[stage] if step <= snapshot.step]
        # Checkpoints may be of another cadence, or of the end of a run that is longer now.
        there = set(self._files.steps())
        for step in sorted({*self._checkpoint_steps, *there}):
            if all(step in saved for saved in self._saved.values()):
                self._take_over_checkpoint(step, step in there, warnings)
        self._read_waiting_entries(warnings)
        self._delete_leftovers(there)
        if self._left_behind:
            start = min((snapshot.step for snapshot in snapshots.values()), default=0)
            warnings.append(
                f"{self._files}: the version of W_embed that ended at step {max(self._left_behind)} was cut short by "
                f"the end of the run; a longer run makes it as a whole, and goes on from step {start}"
            )
        return snapshots, list(dict.fromkeys(warnings))

    def _of_one_beginning(self, snapshots: dict[Stage, Snapshot], warnings: list[str]) -> dict[Stage, Snapshot]:
        """The snapshots, as far as stages that have one may go on where another has none.

        Raises:
            UserError: a stage has none, and does not begin with weights of its own.
        """
        lost = [stage.name for stage in self._names if stage not in snapshots]
        if lost and self._begins_with is not None:
            raise UserError(
                f"{self._files}: no snapshot of {lost[0]} is whole, not even that of step 0 with the weights of "
                f"{self._begins_with} ({'; '.join(warnings) or 'it is missing'}); begin a new run"
            )
        if self._together_at is None or not lost or not snapshots:
            return snapshots
        warnings.append(
            f"{self._files}: {lost[0]} has no whole snapshot left, and stages that share a learned W_embed go on from "
            "the same step: all stages begin anew"
        )
        return {}

    def _newest(self, steps: Mapping[Stage, Sequence[int]]) -> tuple[dict[Stage, Snapshot], list[str]]:
        """Each stage's newest undamaged snapshot of these steps; all of the same step if they go on together."""
        snapshots, warnings = {}, []
        for stage, name in self._names.items():
            found, damaged = self._files.newest(name, steps[stage])
            warnings += damaged
            if found is not None:
                entry, snapshots[stage] = found
                warnings += self._other_bits(entry)
        oldest = min((each.step for each in snapshots.values()), default=0)
        if self._together_at is None or all(each.step == oldest for each in snapshots.values()):
            return snapshots, warnings
        again, further = self._newest({stage: [s for s in each if s <= oldest] for stage, each in steps.items()})
        return again, warnings + further

    def _other_bits(self, entry: SnapshotEntry) -> list[str]:
        """A warning where a stage goes on under what may compute other bits."""
        before, now = entry.trained_with, self._software
        told = other_sources(str(self._files), before, self._sources.get(entry.stage, {}))
        if all(before.get(key, value) == value for key, value in now.items()):
            return told
        then, here = (", ".join(f"{key} {each[key]}" for key in now if key in each) for each in (before, now))
        return [
            *told,
            f"{self._files}: was trained with {then} so far and goes on with {here}: "
            "its weights can differ in bits from those of a run that was not interrupted",
        ]

    @property
    def complete_steps(self) -> Sequence[int]:
        """Steps of the complete checkpoints, rising."""
        return tuple(self._complete)

    def save(self, snapshot: Snapshot) -> SnapshotEntry:
        """Write a snapshot, for `add` to count it. Several may be written at the same time, in threads of their own.

        Raises:
            OSError: it cannot be written; the same call may be made again.
        """
        sources = {path: source.sha256 for path, source in self._sources.get(snapshot.stage, {}).items()}
        return self._files.save(snapshot, self._blocks, {**self._software, **sources})

    def add(self, snapshot: Snapshot, entry: SnapshotEntry | None = None, *, alone: bool = True) -> bool:
        """Take in a snapshot. Return True if it completed its checkpoint.

        Args:
            snapshot: to take in.
            entry: what `save` made of it; None writes it here.
            alone: whether no other snapshot is being written meanwhile.

        Raises:
            OSError: something cannot be written; the same call may be made again.
        """
        stage, step = snapshot.stage, snapshot.step
        self._entries[stage, step] = self.save(snapshot) if entry is None else entry
        saved = self._saved[stage]
        if step not in saved:
            insort(saved, step)
        if step not in self._checkpoint_steps or any(step not in other for other in self._saved.values()):
            self._delete_superseded(stage)
            if alone:
                self._delete_emptied()
            return False
        try:
            self._complete_checkpoint(step)
        except UserError as error:  # an entry of an earlier process: it costs this checkpoint, and the run goes on
            self._news.append(f"{error}; the checkpoint of that step will not be whole")
            return False
        return True

    def news(self) -> tuple[str, ...]:
        """Lines for people since the last call."""
        news, self._news = tuple(self._news), []
        return news

    def give_up(self, stage: Stage) -> None:
        """Keep no snapshots for checkpoints that a stage, which was stopped, will never complete."""
        self._given_up.add(stage)

    def prune(self, up_to: int, best: Collection[int] | None = None) -> None:
        """Delete complete checkpoints that nobody needs, and none after step `up_to`: they may be in use.

        Args:
            up_to: a step.
            best: kept beside the last one; None keeps the last `num_to_keep`.

        Raises:
            OSError: something cannot be deleted.
        """
        last = self._num_to_keep if best is None else 1
        for step in self._complete[:-last]:
            if step <= up_to and (best is None or step not in best):
                self._files.delete_manifest(step)
                self._complete.remove(step)
        for step in [each for each in self._left_behind if each < max(self._complete, default=0)]:
            self._files.delete_step(step)
            self._left_behind.remove(step)
        for stage in self._names:
            self._delete_superseded(stage)
        self._delete_emptied()

    def end_at(self, step: int, best: Collection[int]) -> None:
        """Let the complete checkpoint of `step` be the last: delete all that came after it, then what is not best.

        Raises:
            OSError: something cannot be deleted; the same call may be made again.
        """
        for later in [each for each in self._complete if each > step]:
            self._files.delete_manifest(later)
            self._complete.remove(later)
        for later in self._files.steps_after(step):
            self._files.delete_step(later)
        for stage, saved in self._saved.items():
            self._saved[stage] = [each for each in saved if each <= step]
        self._entries = {key: entry for key, entry in self._entries.items() if key[1] <= step}
        self.prune(step, best)

    def _take_over_checkpoint(self, step: int, there: bool, warnings: list[str]) -> None:
        """Know a checkpoint, or complete it; `there` is whether it has a manifest."""
        try:
            self._check_changes(self._files.manifest(step))
            insort(self._complete, step)
        except OtherRunError:
            raise
        except UserError as error:
            try:
                self._complete_checkpoint(step)
                if there:  # else its process ended between the last snapshot and it, which is no damage
                    warnings.append(f"{error}; it was written anew from the snapshots' own entries")
            except UserError as damaged:
                warnings.append(f"{error}, nor be written anew: {damaged}")

    def _delete_leftovers(self, with_manifest: Collection[int]) -> None:
        """Delete the files of steps that nobody needs: an earlier process has died while it deleted them."""
        needed = {*with_manifest, *self._left_behind, *(step for saved in self._saved.values() for step in saved)}
        for step in self._files.steps_before(max(self._complete, default=0)):
            if step not in needed:
                self._files.delete_step(step)

    def _check_changes(self, manifest: Manifest) -> None:
        """Check that changes.json still says all that a checkpoint was trained with."""
        now = {change.setting for change in self._changes}
        missing = [change.setting for change in manifest.changes if change.setting not in now]
        if missing:
            raise OtherRunError(
                f"{self._files}: the checkpoint of step {manifest.step} was trained with {missing[0]} (by a resume), "
                "and changes.json does not say so: it is of another run, or that file was edited"
            )

    def _read_waiting_entries(self, warnings: list[str]) -> None:
        """Know the entries that later checkpoints will take; a damaged one costs its own checkpoint and no more."""
        for stage, name in self._names.items():
            for step in [
                step for step in self._saved[stage] if self._waits(step) and (stage, step) not in self._entries
            ]:
                try:
                    self._entries[stage, step] = self._files.entry(step, name)
                except OtherRunError:
                    raise
                except UserError as error:
                    self._saved[stage].remove(step)
                    warnings.append(f"{error}; the checkpoint of that step will not be whole")

    def _complete_checkpoint(self, step: int) -> None:
        """Write a manifest; from memory where this process wrote the entries, for files may be damaged meanwhile."""
        entries = [self._entries.get((stage, step)) or self._files.entry(step, n) for stage, n in self._names.items()]
        self._files.complete(entries, self._blocks, self._changes)
        if step not in self._complete:
            insort(self._complete, step)

    def _delete_superseded(self, stage: Stage) -> None:
        saved, wanted = self._saved[stage], self._wanted(stage)
        for step in saved[: -SNAPSHOTS_KEPT - (self._together_at is not None)]:
            if step not in wanted:
                self._files.delete_snapshot(step, self._names[stage])
                saved.remove(step)
                self._entries.pop((stage, step), None)
                self._emptied.add(step)

    def _delete_emptied(self) -> None:
        """Delete folders that hold no snapshot any more. No snapshot may be under way: it might be for one of them."""
        for step in sorted(self._emptied):
            if not any(step in saved for saved in self._saved.values()):
                self._files.delete_step(step)
            self._emptied.discard(step)

    def _wanted(self, stage: Stage) -> set[int]:
        """The steps of a stage that are checkpoints, and those that wait for other stages to become checkpoints.

        A stage may be a whole run ahead. Of the steps that wait, the newest `num_to_keep` are kept and, of those
        before, every 2nd, 4th, …, so that `WAITING_KEPT` are left. The 1st, 2nd, 4th, … of the run stay beside them:
        else the first whole checkpoint would come as late as the spacing is wide. All stages leave out by the number
        of a checkpoint, so what one keeps at a wide spacing the others keep, too.
        """
        waiting = [step for step in self._saved[stage] if self._waits(step)]
        older, spacing = waiting[: -self._num_to_keep], 1
        while len(kept := [step for step in older if self._checkpoint_steps[step] % spacing == 0]) > WAITING_KEPT:
            spacing *= 2
        early = (step for step in older if self._checkpoint_steps[step].bit_count() == 1)
        if spacing > self._spacing:
            self._news.append(
                f"{stage.name} is {len(waiting)} checkpoints ahead of other stages: of those from step {older[0]} to "
                f"{older[-1]} only one in {spacing}, and a few of the first, will be whole, the other snapshots are "
                "deleted"
            )
            self._spacing = spacing
        return {*self._complete, *early, *kept, *waiting[-self._num_to_keep :]}

    def _waits(self, step: int) -> bool:
        """Return True if a step is no checkpoint yet, and can become one."""
        if step not in self._checkpoint_steps or step in self._complete or step < max(self._complete, default=0):
            return False
        return all(
            step in saved or (stage not in self._given_up and step > max(saved, default=0))
            for stage, saved in self._saved.items()
        )
