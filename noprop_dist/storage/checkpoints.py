"""Snapshots of single stages become checkpoints of the whole network; old ones are deleted."""

from noprop_dist.storage.run_directory import Record, RunDirectory
from noprop_dist.storage.snapshot import Snapshot


class CheckpointWriter:
    """Collects each stage's snapshots, in any order of stages and steps, into whole checkpoints.

    Args:
        directory: of the run.
        names: file name of every stage that the run trains, by stage.
        num_to_keep: complete checkpoints that are kept.
    """

    def __init__(self, directory: RunDirectory, names: dict[int, str], num_to_keep: int) -> None:
        self._directory = directory
        self._names = names
        self._num_to_keep = num_to_keep
        self._entries: dict[int, dict[int, Record]] = {}

    def add(self, snapshot: Snapshot) -> bool:
        """Write a snapshot; whether it was the last one that its checkpoint waited for."""
        entries = self._entries.setdefault(snapshot.step, {})
        entries[snapshot.stage] = self._directory.save_snapshot(snapshot, self._names[snapshot.stage])
        if entries.keys() != self._names.keys():
            return False
        self._directory.complete_checkpoint(snapshot.step, self._entries.pop(snapshot.step))
        return True

    def prune(self, up_to: int) -> None:
        """Delete complete checkpoints but the last `num_to_keep`, and none after step `up_to`: it may be in use yet."""
        for step in self._directory.checkpoint_steps()[: -self._num_to_keep]:
            if step <= up_to:
                self._directory.delete_checkpoint(step)
