"""Snapshots and checkpoints as files.

checkpoints/step-00000300/          what the stages left at one step
    block-01.safetensors            weights
    block-01.optimizer.safetensors
    block-01.json                   the snapshot's entry, written after its files: fingerprint and checksums
    …  classifier.*
    manifest.json                   all entries; with it the snapshots of this step are a checkpoint
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

import noprop_dist
from noprop_dist.errors import UserError
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.storage.snapshot_files import ENTRY, OPTIMIZER, WEIGHTS, from_files, to_files
from noprop_dist.storage.store import Store

FORMAT = 2
MANIFEST = "manifest.json"
Record = dict[str, Any]


class CheckpointFiles:
    """Reads and writes the files above; what is kept and for how long is `CheckpointWriter`'s to say.

    Args:
        store: of the run directory.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, snapshot: Snapshot, name: str) -> Record:
        """Write one stage's snapshot; it counts once its entry is there, which is written last.

        Returns:
            The entry.

        Raises:
            OSError: it cannot be written.
        """
        files = to_files(snapshot, name)
        for file, content in files.items():
            self._store.write(f"{_folder(snapshot.step)}/{file}", content)
        entry = {
            "name": name,
            "stage": snapshot.stage,
            "step": snapshot.step,
            "sha256": snapshot.fingerprint(),
            "files": {file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
        }
        self._store.write(f"{_folder(snapshot.step)}/{name}{ENTRY}", json.dumps(entry).encode())
        return entry

    def saved_steps(self) -> dict[str, list[int]]:
        """Steps at which stages left snapshots, rising, by the stages' file names."""
        saved: dict[str, list[int]] = {}
        for step in self._all_steps():
            for file in self._store.names(_folder(step)):
                if file.endswith(ENTRY) and file != MANIFEST:
                    saved.setdefault(file.removesuffix(ENTRY), []).append(step)
        return saved

    def entry(self, step: int, name: str) -> Record:
        """The entry of a stage's snapshot.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            entry: Record = json.loads(self._store.read(f"{_folder(step)}/{name}{ENTRY}"))
            if (entry["name"], entry["step"]) != (name, step) or not entry["files"]:
                raise ValueError("it is of another snapshot")
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{self._store}: {name}{ENTRY} of step {step} cannot be read: {error}") from error
        return entry

    def load(self, step: int, entry: Record) -> Snapshot:
        """The snapshot that an entry describes.

        Raises:
            UserError: a file is missing, does not match its checksum, or is no snapshot.
        """
        contents = []
        for suffix in (WEIGHTS, OPTIMIZER):
            file = entry["name"] + suffix
            try:
                contents.append(self._store.read(f"{_folder(step)}/{file}"))
            except OSError as error:
                raise UserError(f"{self._store}: {file} of step {step} cannot be read: {error}") from error
            if hashlib.sha256(contents[-1]).hexdigest() != entry["files"].get(file):
                raise UserError(f"{self._store}: {file} of step {step} is damaged (its checksum does not match)")
        try:
            return from_files(*contents)
        except ValueError as error:
            raise UserError(f"{self._store}: {entry['name']} of step {step} is {error}") from error

    def newest(self, name: str, steps: Sequence[int]) -> tuple[Snapshot | None, list[str]]:
        """A stage's newest snapshot that is whole, of `steps`, and a warning for every damaged one that is newer."""
        warnings: list[str] = []
        for step in reversed(steps):
            try:
                return self.load(step, self.entry(step, name)), warnings
            except UserError as error:
                warnings.append(f"{error}; the one before it is used")
        return None, warnings

    def complete(self, step: int, entries: Iterable[Record], notes: Mapping[str, Any]) -> None:
        """Write the manifest that makes all stages' snapshots at `step` a checkpoint.

        Args:
            step: of all of them.
            entries: of all stages.
            notes: further facts for the manifest.

        Raises:
            OSError: it cannot be written.
        """
        manifest = {
            "format": FORMAT,
            "step": step,
            "stages": sorted(entries, key=lambda entry: entry["stage"]),
            "software": {
                "noprop_dist": noprop_dist.__version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
                "machine": platform.machine(),
            },
            **notes,
        }
        self._store.write(f"{_folder(step)}/{MANIFEST}", json.dumps(manifest, indent=1).encode())

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, rising."""
        return [step for step in self._all_steps() if self._store.exists(f"{_folder(step)}/{MANIFEST}")]

    def manifest(self, step: int | None = None) -> Record:
        """The manifest of a checkpoint, of the last one by default.

        Raises:
            UserError: there is no complete checkpoint, or its manifest is damaged.
        """
        if step is None:
            steps = self.steps()
            if not steps:
                raise UserError(f"{self._store}: holds no complete checkpoint yet")
            step = steps[-1]
        try:
            manifest: Record = json.loads(self._store.read(f"{_folder(step)}/{MANIFEST}"))
            if manifest["step"] != step or not manifest["stages"]:
                raise ValueError("it is of another checkpoint")
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{self._store}: the manifest of step {step} cannot be read: {error}") from error
        return manifest

    def load_all(self, step: int | None = None) -> dict[int, Snapshot]:
        """All snapshots of a checkpoint by stage, of the last one by default.

        Raises:
            UserError: there is none, or a file is missing or does not match its checksum.
        """
        manifest = self.manifest(step)
        return {entry["stage"]: self.load(manifest["step"], entry) for entry in manifest["stages"]}

    def load_last_whole(self) -> tuple[dict[int, Snapshot], list[str]]:
        """The snapshots of the last checkpoint that is undamaged, and a warning for every damaged one after it.

        Raises:
            UserError: there is none.
        """
        warnings: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.load_all(step), warnings
            except UserError as error:
                warnings.append(str(error))
        if warnings:
            raise UserError("; ".join(warnings))
        return self.load_all(), []

    def delete_snapshot(self, step: int, name: str) -> None:
        """Delete one stage's snapshot, its entry first."""
        for suffix in (ENTRY, WEIGHTS, OPTIMIZER):
            self._store.delete(f"{_folder(step)}/{name}{suffix}")

    def delete_manifest(self, step: int) -> None:
        """Make a checkpoint one no longer; its snapshots stay."""
        self._store.delete(f"{_folder(step)}/{MANIFEST}")

    def delete_step(self, step: int) -> None:
        """Delete all that was left at one step."""
        self._store.delete_folder(_folder(step))

    def _all_steps(self) -> list[int]:
        names = [name.removeprefix("step-") for name in self._store.names("checkpoints")]
        return sorted(int(name) for name in names if name.isdigit())


def _folder(step: int) -> str:
    return f"checkpoints/step-{step:08d}"
