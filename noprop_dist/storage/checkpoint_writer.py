"""Makes checkpoints of the whole network from snapshots of single stages, and deletes what nobody needs any more."""

from bisect import insort
from collections.abc import Mapping, Sequence

from noprop_dist.errors import UserError
from noprop_dist.stages import Stage
from noprop_dist.storage.checkpoints import Checkpoints, SettingChange
from noprop_dist.storage.snapshot import Snapshot

SNAPSHOTS_KEPT = 2
"""For each stage, whatever else is deleted: the newest, and the one before it in case the newest is damaged."""


class CheckpointWriter:
    """Collects each stage's snapshots, in any order of stages, into whole checkpoints.

    Args:
        files: of the run.
        stages: that the run trains.
        blocks: T.
        checkpoint_steps: steps at which all stages' snapshots make a checkpoint.
        num_to_keep: complete checkpoints that are kept.
        changes: of settings, so far; manifests repeat them.
        together_at: if stages share a learned W_embed, the steps at which all can go on together; snapshots of other
            steps are not written. Else None.
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
    ) -> None:
        self._files = files
        self._blocks = blocks
        self._names = {stage: stage.file(blocks) for stage in stages}
        self._checkpoint_steps = frozenset(checkpoint_steps)
        self._num_to_keep = num_to_keep
        self._changes = changes
        self._together_at = together_at
        self._saved: dict[Stage, list[int]] = {stage: [] for stage in stages}
        self._complete: list[int] = []
        self._given_up: set[Stage] = set()

    def take_over(self) -> tuple[dict[Stage, Snapshot], list[str]]:
        """Go on where an earlier process stopped.

        If all snapshots of a checkpoint are there and its manifest is missing or damaged, the manifest is written anew.

        Returns:
            Each stage's newest undamaged snapshot, and warnings of damaged ones.

        Raises:
            OSError: the storage cannot be read or written.
        """
        found = self._files.saved_steps()
        steps = {stage: found.get(name, []) for stage, name in self._names.items()}
        if self._together_at is not None:
            common = set.intersection(*(set(each) for each in steps.values()))
            steps = {stage: [step for step in each if step in common] for stage, each in steps.items()}
        snapshots, warnings = self._newest(steps)
        for stage, snapshot in snapshots.items():
            self._saved[stage] = [step for step in steps[stage] if step <= snapshot.step]
        for step in sorted(self._checkpoint_steps):
            if all(step in saved for saved in self._saved.values()):
                self._take_over_checkpoint(step, warnings)
        return snapshots, warnings

    def _newest(self, steps: Mapping[Stage, Sequence[int]]) -> tuple[dict[Stage, Snapshot], list[str]]:
        """Each stage's newest undamaged snapshot of these steps; all of the same step if they go on together."""
        snapshots, warnings = {}, []
        for stage, name in self._names.items():
            snapshot, damaged = self._files.newest(name, steps[stage])
            warnings += damaged
            if snapshot is not None:
                snapshots[stage] = snapshot
        oldest = min((each.step for each in snapshots.values()), default=0)
        if self._together_at is None or all(each.step == oldest for each in snapshots.values()):
            return snapshots, warnings
        again, further = self._newest({stage: [s for s in each if s <= oldest] for stage, each in steps.items()})
        return again, warnings + further

    @property
    def complete_steps(self) -> Sequence[int]:
        """Steps of the complete checkpoints, rising."""
        return tuple(self._complete)

    def add(self, snapshot: Snapshot) -> bool:
        """Write a snapshot. Return True if it completed its checkpoint.

        Raises:
            OSError: it cannot be written; the same call may be made again.
        """
        if self._together_at is not None and snapshot.step not in self._together_at:
            return False
        self._files.save(snapshot, self._blocks)
        saved = self._saved[snapshot.stage]
        if snapshot.step not in saved:
            insort(saved, snapshot.step)
        if snapshot.step not in self._checkpoint_steps or any(
            snapshot.step not in other for other in self._saved.values()
        ):
            self._delete_superseded(snapshot.stage)
            return False
        self._complete_checkpoint(snapshot.step)
        return True

    def give_up(self, stage: Stage) -> None:
        """Keep no snapshots for checkpoints that a stage, which was stopped, will never complete."""
        self._given_up.add(stage)

    def prune(self, up_to: int) -> None:
        """Delete complete checkpoints but the last `num_to_keep`, and none after step `up_to`: they may be in use.

        Raises:
            OSError: something cannot be deleted.
        """
        for step in self._complete[: -self._num_to_keep]:
            if step <= up_to:
                self._files.delete_manifest(step)
                self._complete.remove(step)
        for stage in self._names:
            self._delete_superseded(stage)

    def _take_over_checkpoint(self, step: int, warnings: list[str]) -> None:
        try:
            self._files.manifest(step)
            insort(self._complete, step)
        except UserError as error:
            self._complete_checkpoint(step)
            warnings.append(f"{error}; it was written anew from the snapshots' own entries")

    def _complete_checkpoint(self, step: int) -> None:
        entries = [self._files.entry(step, name) for name in self._names.values()]
        self._files.complete(entries, self._blocks, self._changes)
        if step not in self._complete:
            insort(self._complete, step)

    def _delete_superseded(self, stage: Stage) -> None:
        saved = self._saved[stage]
        for step in saved[: -SNAPSHOTS_KEPT - (self._together_at is not None)]:
            if not self._needed(step):
                self._files.delete_snapshot(step, self._names[stage])
                saved.remove(step)
                if not any(step in other for other in self._saved.values()):
                    self._files.delete_step(step)

    def _needed(self, step: int) -> bool:
        """Return True if a step is a checkpoint, or can become one."""
        if step in self._complete:
            return True
        if step not in self._checkpoint_steps or step < max(self._complete, default=0):
            return False
        return all(
            step in saved or (stage not in self._given_up and step > max(saved, default=0))
            for stage, saved in self._saved.items()
        )
