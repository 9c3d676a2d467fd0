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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

import noprop_dist
from noprop_dist.errors import UserError
from noprop_dist.files import JsonObject, check_checksum, parse_json, with_checksum
from noprop_dist.stages import Stage
from noprop_dist.storage.identity import Identity, OtherRunError, check_run, of_stage
from noprop_dist.storage.manifest import FILE_NAME, Manifest, SettingChange, SnapshotEntry
from noprop_dist.storage.snapshot import OPTIMIZER, WEIGHTS, Snapshot, from_files, to_files
from noprop_dist.storage.store import Store, is_damage

Read = TypeVar("Read")
ENTRY, MANIFEST = ".json", "manifest.json"
FOLDER = re.compile(r"step-([0-9]{8,15})")


class Checkpoints:
    """Reads and writes the files above; `CheckpointWriter` decides what is kept, and for how long.

    What is written says of which run it is, and what is read must be of this one.

    Args:
        store: of the run directory.
        identity: of the run; None where there is none yet.
    """

    def __init__(self, store: Store, identity: Callable[[], Identity | None] = lambda: None) -> None:
        self._store = store
        self._identity = identity

    def __str__(self) -> str:
        return str(self._store)

    def save(self, snapshot: Snapshot, blocks: int, trained_with: Mapping[str, str]) -> SnapshotEntry:
        """Write one stage's snapshot, in a run of T = `blocks`: first its files, then the entry that makes it count.

        Args:
            snapshot: to write.
            blocks: T.
            trained_with: see `SnapshotEntry`.

        Raises:
            OSError: it cannot be written.
        """
        name, folder = snapshot.stage.file(blocks), _folder(snapshot.step)
        files = to_files(snapshot, blocks)
        self._store.write_all({f"{folder}/{file}": content for file, content in files.items()})
        checksums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        print_ = snapshot.fingerprint()
        entry = SnapshotEntry(snapshot.stage, name, snapshot.step, print_, checksums, trained_with)
        identity = self._identity()
        run = {} if identity is None else {"run": of_stage(identity, snapshot.stage)}
        values = with_checksum({**entry.to_json(blocks), **run})
        self._store.write(f"{folder}/{name}{ENTRY}", json.dumps(values).encode())
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
            OtherRunError: the snapshot is of another run.
            UserError: it is missing or damaged.
        """
        try:
            values = parse_json(self._content(step, f"{name}{ENTRY}"), JsonObject)
            entry = SnapshotEntry.from_json(values)
            check_checksum(values)
            if (entry.name, entry.step) != (name, step):
                raise ValueError("it is of another snapshot")
        except ValueError as error:
            raise UserError(f"{self._store}: {name}{ENTRY} of step {step} cannot be read: {error}") from error
        self._check_run(f"{name} of step {step}", values, entry.stage)
        return entry

    def device(self) -> str | None:
        """The kind of device that the newest undamaged snapshot was trained on; None if no entry says so."""
        newest = {name: steps[-1] for name, steps in self.saved_steps().items()}
        for name in sorted(newest, key=lambda name: -newest[name]):
            entry = _unless_damaged(self.entry, newest[name], name)
            if entry is not None and "device" in entry.trained_with:
                return entry.trained_with["device"]
        return None

    def check_run(self) -> None:
        """Check that the newest snapshot of every stage and the last checkpoint are of this run.

        Raises:
            OtherRunError: one is not. What is missing or damaged is passed over.
            UserError: a file that says which run this is cannot be read; no snapshot is to blame for that.
        """
        self._identity()
        for name, steps in self.saved_steps().items():
            _unless_damaged(self.entry, steps[-1], name)
        _unless_damaged(self.manifest)

    def _check_run(self, what: str, values: Mapping[str, Any], stage: Stage | None = None) -> None:
        """Compare what was written with the run's own identity; older files say nothing of it."""
        own, written = self._identity(), values.get("run")
        if own is not None and isinstance(written, dict):
            check_run(f"{self._store}: {what}", written, own if stage is None else of_stage(own, stage))

    def load(self, entry: SnapshotEntry) -> Snapshot:
        """The snapshot that an entry describes.

        Raises:
            UserError: a file is missing, does not match its checksum, or is no snapshot.
        """
        return self._load(entry, WEIGHTS, OPTIMIZER)

    def load_weights(self, entry: SnapshotEntry) -> Snapshot:
        """As `load`, of weights alone: a third of the bytes of Adam. The optimiser's state may be damaged."""
        return self._load(entry, WEIGHTS)

    def _load(self, entry: SnapshotEntry, *suffixes: str) -> Snapshot:
        contents = []
        for suffix in suffixes:
            file = entry.name + suffix
            try:
                contents.append(self._content(entry.step, file))
            except ValueError as error:
                raise UserError(f"{self._store}: {file} of step {entry.step} cannot be read: {error}") from error
            if hashlib.sha256(contents[-1]).hexdigest() != entry.files.get(file):
                raise UserError(f"{self._store}: {file} of step {entry.step} is damaged (its checksum does not match)")
        try:
            snapshot = from_files(entry.name, *contents)
        except ValueError as error:
            raise UserError(f"{self._store}: {entry.name} of step {entry.step} is {error}") from error
        if (snapshot.stage, snapshot.step) != (entry.stage, entry.step):
            raise UserError(
                f"{self._store}: {entry.name} of step {entry.step} is the snapshot of {snapshot.stage.name} at step "
                f"{snapshot.step}"
            )
        return snapshot

    def _content(self, step: int, file: str) -> bytes:
        """A file of a step.

        Raises:
            ValueError: it is missing or cannot be read any more.
            StorageError: the storage does not answer, or refuses this user; that is no damage, and nothing is made up
                for it.
        """
        try:
            return self._store.read(f"{_folder(step)}/{file}")
        except OSError as error:
            if not is_damage(error):
                raise
            raise ValueError(str(error)) from error

    def newest(self, name: str, steps: Sequence[int]) -> tuple[tuple[SnapshotEntry, Snapshot] | None, list[str]]:
        """A stage's newest undamaged snapshot of `steps`, and a warning for every damaged one that is newer.

        Raises:
            OtherRunError: a snapshot is of another run.
        """
        warnings: list[str] = []
        for step in reversed(steps):
            try:
                entry = self._entry_or_manifest(step, name, warnings)
                return (entry, self.load(entry)), warnings
            except OtherRunError:
                raise
            except UserError as error:
                warnings.append(f"{error}; the one before it is used")
        return None, warnings

    def _entry_or_manifest(self, step: int, name: str, warnings: list[str]) -> SnapshotEntry:
        """The entry of a stage's snapshot; where its own file is damaged, what the manifest of that step says of it."""
        try:
            return self.entry(step, name)
        except OtherRunError:
            raise
        except UserError as error:
            entry = self._repeated(step, name)
            if entry is None:
                raise
            warnings.append(f"{error}; what the manifest says of it is used")
            return entry

    def _repeated(self, step: int, name: str) -> SnapshotEntry | None:
        """What the manifest of a step says of a stage's snapshot; None if there is none, or it is damaged."""
        try:
            return next((entry for entry in self.manifest(step).stages if entry.name == name), None)
        except OtherRunError:
            raise
        except UserError:
            return None

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
        identity = self._identity()
        run = {} if identity is None else {"run": identity}
        content = json.dumps(with_checksum({**manifest.to_json(blocks), **run}), indent=1).encode()
        self._store.write(f"{_folder(manifest.step)}/{MANIFEST}", content)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, rising."""
        return [step for step in self._all_steps() if self._store.exists(f"{_folder(step)}/{MANIFEST}")]

    def manifest(self, step: int | None = None, *, of_any_run: bool = False) -> Manifest:
        """The manifest of a checkpoint, of the last one by default.

        Args:
            step: of the checkpoint.
            of_any_run: whether to read one of another run, too: to be looked at, and not to be used.

        Raises:
            OtherRunError: it is of another run.
            UserError: there is no complete checkpoint, or its manifest is damaged.
        """
        if step is None:
            steps = self.steps()
            if not steps:
                raise UserError(
                    f"{self._store}: holds no complete checkpoint yet; `noprop-dist inspect` tells how far it is"
                )
            step = steps[-1]
        try:
            values = parse_json(self._content(step, MANIFEST), JsonObject)
            manifest = Manifest.from_json(values)
            check_checksum(values)
            if not manifest.stages or {step} != {manifest.step, *(entry.step for entry in manifest.stages)}:
                raise ValueError("it is of another checkpoint")
        except ValueError as error:
            raise UserError(f"{self._store}: {MANIFEST} of step {step} cannot be read: {error}") from error
        if not of_any_run:
            self._check_run(f"the checkpoint of step {step}", values)
        return manifest

    def load_all(self, step: int | None = None, *, weights_alone: bool = False) -> dict[Stage, Snapshot]:
        """All snapshots of a checkpoint, of the last one by default.

        Args:
            step: of the checkpoint.
            weights_alone: see `load_weights`.

        Raises:
            UserError: there is none, or a file is missing or does not match its checksum.
        """
        load = self.load_weights if weights_alone else self.load
        return {entry.stage: load(entry) for entry in self.manifest(step).stages}

    def load_last_whole(self, *, weights_alone: bool = False) -> tuple[dict[Stage, Snapshot], list[str]]:
        """The snapshots of the last undamaged checkpoint, and a warning for every damaged one after it.

        Args:
            weights_alone: see `load_weights`.

        Raises:
            UserError: there is none, or one is of another run.
        """
        self._identity()  # where it cannot be read, no snapshot is to blame
        warnings: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.load_all(step, weights_alone=weights_alone), warnings
            except OtherRunError:
                raise
            except UserError as error:
                warnings.append(str(error))
        if warnings:
            raise UserError("; ".join(warnings))
        return self.load_all(weights_alone=weights_alone), []

    def delete_snapshot(self, step: int, name: str) -> None:
        """Delete one stage's snapshot, its entry first."""
        self._store.delete(f"{_folder(step)}/{name}{ENTRY}")
        self._store.delete_all([f"{_folder(step)}/{name}{suffix}" for suffix in (WEIGHTS, OPTIMIZER)])

    def delete_manifest(self, step: int) -> None:
        """Delete a manifest: the step is no checkpoint any more, and its snapshots stay."""
        self._store.delete(f"{_folder(step)}/{MANIFEST}")

    def delete_step(self, step: int) -> None:
        """Delete everything of one step, entries first: a process may end on the way, and an entry promises files."""
        entries = [f"{_folder(step)}/{name}" for name in self._store.names(_folder(step)) if name.endswith(ENTRY)]
        if entries:
            self._store.delete_all(entries)
        self._store.delete_folder(_folder(step))

    def steps_before(self, step: int) -> list[int]:
        """Earlier steps that anything is there of, rising."""
        return [each for each in self._all_steps() if each < step]

    def steps_after(self, step: int) -> list[int]:
        """Later steps that anything was saved of, rising."""
        return [each for each in self._all_steps() if each > step]

    def _all_steps(self) -> list[int]:
        found = filter(None, map(FOLDER.fullmatch, self._store.names("checkpoints")))
        return sorted(step for step in (int(name[1]) for name in found))


def bits_software(device: str) -> dict[str, str]:
    """What bits depend on beside the settings: torch, the machine, the instructions that torch uses, the device."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "machine": platform.machine(), "cpu": capability, "device": device}


def _unless_damaged(read: Callable[..., Read], *arguments: Any) -> Read | None:
    try:
        return read(*arguments)
    except OtherRunError:
        raise
    except UserError:
        return None


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
