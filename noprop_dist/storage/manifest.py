"""What is written of snapshots and checkpoints: the entry of a snapshot, and the manifest of a checkpoint.

Whatever is read of them is checked, for it may come from outside.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from noprop_dist.files import JsonObject, check_checksum, json_form
from noprop_dist.stages import Stage
from noprop_dist.storage.snapshot import stage_facts, stage_of

FORMAT = 2
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
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
        trained_with: what bits depend on beside the settings: what `bits_software` says, and the SHA-256 of the
            source of a user's own network, by import path. Empty if that is not known.
    """

    stage: Stage
    name: str
    step: int
    sha256: str
    files: Mapping[str, str]
    trained_with: Mapping[str, str] = field(default_factory=dict)

    def to_json(self, blocks: int) -> dict[str, Any]:
        """As plain values, in a run of T = `blocks`."""
        facts = {"step": self.step, "sha256": self.sha256, "files": dict(self.files)}
        software = {"trained_with": dict(self.trained_with)} if self.trained_with else {}
        return {"name": self.name, **stage_facts(self.stage, blocks), **facts, **software}

    @staticmethod
    def from_json(value: Any) -> "SnapshotEntry":
        """Read back what `to_json` made.

        Raises:
            ValueError: the value is no entry.
        """
        values = json_form(value, JsonObject, "an entry")
        name, files = checked_name(values["name"]), checked_texts(values, "files")
        if not files:
            raise ValueError("it names no files")
        if not (isinstance(values["sha256"], str) and FINGERPRINT.fullmatch(values["sha256"])):
            raise ValueError(f"sha256 {values['sha256']!r} is no fingerprint of weights")
        software, step = checked_texts(values, "trained_with", {}), checked_step(values["step"])
        return SnapshotEntry(stage_of(values, name), name, step, values["sha256"], files, software)


@dataclass(frozen=True)
class SettingChange:
    """A setting that a `resume` changed.

    Attributes:
        setting: "key=value".
        from_step: from which it holds, by the file names of the stages.
    """

    setting: str
    from_step: Mapping[str, int]

    @staticmethod
    def from_json(value: Any) -> "SettingChange":
        """Read back what `asdict` made.

        Raises:
            ValueError: the value is no change.
        """
        values = json_form(value, JsonObject, "a change")
        check_checksum(values)
        setting, steps = values["setting"], json_form(values["from_step"], JsonObject, "from_step")
        if not isinstance(setting, str):
            raise ValueError(f"{setting!r} is no setting")
        return SettingChange(setting, {checked_name(name): checked_step(step) for name, step in steps.items()})


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
    def from_json(values: JsonObject) -> "Manifest":
        """Read back what `to_json` made.

        Raises:
            ValueError: the values are not those of a manifest.
        """
        return Manifest(
            checked_step(values["step"]),
            tuple(SnapshotEntry.from_json(entry) for entry in json_form(values["stages"], list, "stages")),
            checked_texts(values, "software"),
            tuple(map(SettingChange.from_json, json_form(values.get("changes", []), list, "changes"))),
            checked_texts(values, "merged_from", {}),
        )


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


def checked_texts(values: Mapping[str, Any], key: str, default: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Texts by name, out of a run directory.

    Raises:
        ValueError: they are none, or there is no such key, and no default.
    """
    texts = values[key] if default is None else values.get(key, default)
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"{key} are no texts by name")
    return texts
