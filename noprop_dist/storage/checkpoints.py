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
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

import noprop_dist
from noprop_dist.errors import UserError
from noprop_dist.stages import Stage
from noprop_dist.storage.snapshot import OPTIMIZER, WEIGHTS, Snapshot, from_files, stage_facts, stage_of, to_files
from noprop_dist.storage.store import Store

FORMAT = 2
ENTRY, MANIFEST = ".json", "manifest.json"
FOLDER = re.compile(r"step-([0-9]{8,15})")
FILE_NAME = re.compile(r"block-[0-9]{2,9}|classifier|embedding|network")
"""What `Stage.file` makes: no other name that a run directory gives becomes part of a path."""


@dataclass(frozen=True)
class SnapshotEntry:
    """The entry of one snapshot: what it is, and checksums of its files.

    Attributes:
        stage: whose snapshot it is.
        name: the beginning of its files' names: "block-03", "classifier", "embedding" or "network".
        step: optimiser steps done.
        sha256: fingerprint of the weights; see `weights_sha256`.
        files: SHA-256 of each file, by name.
    """

    stage: Stage
    name: str
    step: int
    sha256: str
    files: Mapping[str, str]

    def to_json(self, blocks: int) -> dict[str, Any]:
        """As plain values, in a run of T = `blocks`."""
        facts = {"step": self.step, "sha256": self.sha256, "files": dict(self.files)}
        return {"name": self.name, **stage_facts(self.stage, blocks), **facts}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "SnapshotEntry":
        """Read back what `to_json` made.

        Raises:
            ValueError: the values are not those of an entry.
            LookupError: something is missing.
        """
        name, files = checked_name(values["name"]), values["files"]
        if not files:
            raise ValueError("it names no files")
        return SnapshotEntry(stage_of(values, name), name, checked_step(values["step"]), values["sha256"], files)


@dataclass(frozen=True)
class SettingChange:
    """A setting that a `resume` changed.

    Attributes:
        setting: "key=value".
        from_step: from which it holds, by the file names of the stages.
    """

    setting: str
    from_step: Mapping[str, int]


@dataclass(frozen=True)
class Manifest:
    """The manifest of one checkpoint: the entries of its snapshots.

    Attributes:
        step: of all its snapshots.
        stages: the snapshots, blocks first, then the classifier, then a learned W_embed.
        software: versions that wrote it, by name.
        changes: of settings, that resumed runs made before it.
        merged_from: the run directory that each snapshot was taken from, by file name; empty if the run was not merged.
    """

    step: int
    stages: tuple[SnapshotEntry, ...]
    software: Mapping[str, str]
    changes: tuple[SettingChange, ...] = ()
    merged_from: Mapping[str, str] = field(default_factory=dict)

    def to_json(self, blocks: int) -> dict[str, Any]:
        """As plain values, in a run of T = `blocks`."""
        return {
            "format": FORMAT,
            "step": self.step,
            "stages": [entry.to_json(blocks) for entry in self.stages],
            "software": self.software,
            "changes": [asdict(change) for change in self.changes],
            **({"merged_from": self.merged_from} if self.merged_from else {}),
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Manifest":
        """Read back what `to_json` made.

        Raises:
            ValueError: the values are not those of a manifest.
            LookupError: something is missing.
        """
        return Manifest(
            checked_step(values["step"]),
            tuple(SnapshotEntry.from_json(entry) for entry in values["stages"]),
            values["software"],
            tuple(SettingChange(**change) for change in values.get("changes", ())),
            values.get("merged_from", {}),
        )


class Checkpoints:
    """Reads and writes the files above; `CheckpointWriter` decides what is kept, and for how long.

    Args:
        store: of the run directory.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, snapshot: Snapshot, blocks: int) -> SnapshotEntry:
        """Write one stage's snapshot, in a run of T = `blocks`: first its files, then the entry that makes it count.

        Raises:
            OSError: it cannot be written.
        """
        name, folder = snapshot.stage.file(blocks), _folder(snapshot.step)
        files = to_files(snapshot, blocks)
        for file, content in files.items():
            self._store.write(f"{folder}/{file}", content)
        checksums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        entry = SnapshotEntry(snapshot.stage, name, snapshot.step, snapshot.fingerprint(), checksums)
        self._store.write(f"{folder}/{name}{ENTRY}", json.dumps(entry.to_json(blocks)).encode())
        return entry

    def saved_steps(self) -> dict[str, list[int]]:
        """Steps at which stages left snapshots, rising, by the stages' file names."""
        saved: dict[str, list[int]] = {}
        for step in self._all_steps():
            for file in self._store.names(_folder(step)):
                name = file.removesuffix(ENTRY)
                if name != file and FILE_NAME.fullmatch(name):
                    saved.setdefault(name, []).append(step)
        return saved

    def entry(self, step: int, name: str) -> SnapshotEntry:
        """The entry of a stage's snapshot.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            entry = SnapshotEntry.from_json(json.loads(self._store.read(f"{_folder(step)}/{name}{ENTRY}")))
            if (entry.name, entry.step) != (name, step):
                raise ValueError("it is of another snapshot")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{self._store}: {name}{ENTRY} of step {step} cannot be read: {error}") from error
        return entry

    def load(self, entry: SnapshotEntry) -> Snapshot:
        """The snapshot that an entry describes.

        Raises:
            UserError: a file is missing, does not match its checksum, or is no snapshot.
        """
        contents = []
        for suffix in (WEIGHTS, OPTIMIZER):
            file = entry.name + suffix
            try:
                contents.append(self._store.read(f"{_folder(entry.step)}/{file}"))
            except OSError as error:
                raise UserError(f"{self._store}: {file} of step {entry.step} cannot be read: {error}") from error
            if hashlib.sha256(contents[-1]).hexdigest() != entry.files.get(file):
                raise UserError(f"{self._store}: {file} of step {entry.step} is damaged (its checksum does not match)")
        try:
            return from_files(entry.name, *contents)
        except ValueError as error:
            raise UserError(f"{self._store}: {entry.name} of step {entry.step} is {error}") from error

    def newest(self, name: str, steps: Sequence[int]) -> tuple[Snapshot | None, list[str]]:
        """A stage's newest undamaged snapshot of `steps`, and a warning for every damaged one that is newer."""
        warnings: list[str] = []
        for step in reversed(steps):
            try:
                return self.load(self.entry(step, name)), warnings
            except UserError as error:
                warnings.append(f"{error}; the one before it is used")
        return None, warnings

    def complete(
        self,
        entries: Iterable[SnapshotEntry],
        blocks: int,
        changes: Sequence[SettingChange] = (),
        merged_from: Mapping[str, str] | None = None,
    ) -> None:
        """Write the manifest that makes the snapshots of a step a checkpoint.

        Args:
            entries: of all stages, all of the same step.
            blocks: T.
            changes: see `Manifest`.
            merged_from: see `Manifest`.

        Raises:
            OSError: it cannot be written.
        """
        stages = tuple(sorted(entries, key=lambda entry: entry.stage))
        manifest = Manifest(stages[0].step, stages, _software(), tuple(changes), merged_from or {})
        content = json.dumps(manifest.to_json(blocks), indent=1).encode()
        self._store.write(f"{_folder(manifest.step)}/{MANIFEST}", content)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, rising."""
        return [step for step in self._all_steps() if self._store.exists(f"{_folder(step)}/{MANIFEST}")]

    def manifest(self, step: int | None = None) -> Manifest:
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
            manifest = Manifest.from_json(json.loads(self._store.read(f"{_folder(step)}/{MANIFEST}")))
            if not manifest.stages or {step} != {manifest.step, *(entry.step for entry in manifest.stages)}:
                raise ValueError("it is of another checkpoint")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{self._store}: the manifest of step {step} cannot be read: {error}") from error
        return manifest

    def load_all(self, step: int | None = None) -> dict[Stage, Snapshot]:
        """All snapshots of a checkpoint, of the last one by default.

        Raises:
            UserError: there is none, or a file is missing or does not match its checksum.
        """
        return {entry.stage: self.load(entry) for entry in self.manifest(step).stages}

    def load_last_whole(self) -> tuple[dict[Stage, Snapshot], list[str]]:
        """The snapshots of the last undamaged checkpoint, and a warning for every damaged one after it.

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
        """Delete a manifest: the step is no checkpoint any more, and its snapshots stay."""
        self._store.delete(f"{_folder(step)}/{MANIFEST}")

    def delete_step(self, step: int) -> None:
        """Delete everything of one step."""
        self._store.delete_folder(_folder(step))

    def _all_steps(self) -> list[int]:
        found = filter(None, map(FOLDER.fullmatch, self._store.names("checkpoints")))
        return sorted(step for step in (int(name[1]) for name in found))


def checked_name(name: object) -> str:
    """What the names of a stage's files begin with, out of a run directory.

    Raises:
        ValueError: it is none that `Stage.file` makes.
    """
    if not (isinstance(name, str) and FILE_NAME.fullmatch(name)):
        raise ValueError(f"{name!r} is no name of a stage's files")
    return name


def checked_step(step: object) -> int:
    """A number of steps, out of a run directory.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 10**15:
        raise ValueError(f"{step!r} is no number of steps")
    return step


def _software() -> dict[str, str]:
    return {
        "noprop_dist": noprop_dist.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _folder(step: int) -> str:
    return f"checkpoints/step-{step:08d}"
