"""One run on disk.

config.yaml                     the whole configuration
data.json                       facts of the data set (shape, classes, normalisation)
metrics.jsonl                   one JSON object a line
checkpoints/step-00000300/      all stages' snapshots at one step; complete once manifest.json is there
    block-01.safetensors        weights
    block-01.optimizer.safetensors
    …  classifier.safetensors
    manifest.json               written last: fingerprints and checksums
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import yaml

import noprop_dist
from noprop_dist.configuration.layers import to_yaml, validated
from noprop_dist.configuration.settings import RunConfig
from noprop_dist.data.dataset import DataFacts
from noprop_dist.errors import UserError
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.storage.snapshot_files import OPTIMIZER, WEIGHTS, from_files, to_files
from noprop_dist.storage.store import Store

FORMAT = 1
Record = dict[str, Any]


class RunDirectory:
    """A run's files.

    Args:
        root: a local path or a URI; need not exist.
    """

    def __init__(self, root: str) -> None:
        self._store = Store(root)

    def __str__(self) -> str:
        return str(self._store)

    def check_unused(self) -> None:
        """Refuse a directory that already holds a run.

        Raises:
            UserError: as described.
        """
        if self._store.exists("config.yaml"):
            raise UserError(
                f"{self}: already holds a run; `noprop-dist resume {self}` continues it, "
                "another --run-dir starts a new one"
            )

    def create(self, config: RunConfig, facts: DataFacts) -> None:
        """Begin a run here.

        Raises:
            UserError: the directory already holds a run or cannot be written.
        """
        self.check_unused()
        try:
            self._store.write("data.json", json.dumps(facts.to_json(), indent=1).encode())
            self._store.write("config.yaml", to_yaml(config).encode())
        except OSError as error:
            raise UserError(f"{self}: the run directory cannot be written: {error}") from error

    def config(self) -> RunConfig:
        """The configuration of the run.

        Raises:
            UserError: there is no run here, or its file is damaged.
        """
        if not self._store.exists("config.yaml"):
            raise UserError(f"{self}: holds no run (there is no config.yaml)")
        try:
            return validated(yaml.safe_load(self._store.read("config.yaml")))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{self}: config.yaml cannot be read: {error}") from error

    def facts(self) -> DataFacts:
        """The facts of the data set that the run learns from.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            return DataFacts.from_json(json.loads(self._store.read("data.json")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{self}: data.json cannot be read: {error}") from error

    def save_snapshot(self, snapshot: Snapshot, name: str) -> Record:
        """Write one stage's snapshot; it counts once the manifest of its step names it.

        Returns:
            The snapshot's entry for the manifest.
        """
        files = to_files(snapshot, name)
        for file, content in files.items():
            self._store.write(f"{_folder(snapshot.step)}/{file}", content)
        return {
            "name": name,
            "stage": snapshot.stage,
            "step": snapshot.step,
            "sha256": snapshot.fingerprint(),
            "files": {file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
        }

    def complete_checkpoint(self, step: int, entries: Mapping[int, Record]) -> None:
        """Write the manifest that makes all stages' snapshots at `step` a checkpoint.

        Args:
            step: of all of them.
            entries: what `save_snapshot` returned, by stage.
        """
        manifest = {
            "format": FORMAT,
            "step": step,
            "stages": [entry for _, entry in sorted(entries.items())],
            "software": {
                "noprop_dist": noprop_dist.__version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
                "machine": platform.machine(),
            },
        }
        self._store.write(f"{_folder(step)}/manifest.json", json.dumps(manifest, indent=1).encode())

    def checkpoint_steps(self) -> list[int]:
        """Steps of the complete checkpoints, rising."""
        folders = [name for name in self._store.names("checkpoints") if name.startswith("step-")]
        return [
            int(folder.removeprefix("step-"))
            for folder in folders
            if self._store.exists(f"checkpoints/{folder}/manifest.json")
        ]

    def delete_checkpoint(self, step: int) -> None:
        """Delete one checkpoint."""
        self._store.delete_folder(_folder(step))

    def manifest(self, step: int | None = None) -> Record:
        """The manifest of a checkpoint, of the last one by default.

        Raises:
            UserError: there is no complete checkpoint, or its manifest is damaged.
        """
        if step is None:
            steps = self.checkpoint_steps()
            if not steps:
                raise UserError(f"{self}: holds no complete checkpoint yet")
            step = steps[-1]
        try:
            manifest: Record = json.loads(self._store.read(f"{_folder(step)}/manifest.json"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self}: the manifest of step {step} cannot be read: {error}") from error
        return manifest

    def load_snapshots(self, step: int | None = None) -> dict[int, Snapshot]:
        """All snapshots of a checkpoint by stage, of the last one by default.

        Raises:
            UserError: there is none, or a file is missing or does not match its checksum.
        """
        manifest = self.manifest(step)
        return {entry["stage"]: self._load(manifest["step"], entry) for entry in manifest["stages"]}

    def last_snapshots(self) -> dict[int, Snapshot]:
        """The snapshots to resume from; none before the first complete checkpoint.

        Records of later steps are dropped from the metrics: those steps will be done again, and nothing is counted
        twice.
        """
        steps = self.checkpoint_steps()
        last = steps[-1] if steps else 0
        kept = [record for record in self.metrics() if record.get("step", 0) <= last]
        self._store.write("metrics.jsonl", _lines(kept))
        return self.load_snapshots(last) if steps else {}

    def append_metrics(self, records: list[Record]) -> None:
        """Append records to metrics.jsonl."""
        self._store.append("metrics.jsonl", _lines(records))

    def metrics(self) -> list[Record]:
        """All records of metrics.jsonl; a last line that was cut off is left out."""
        if not self._store.exists("metrics.jsonl"):
            return []
        lines = self._store.read("metrics.jsonl").decode().split("\n")
        return [json.loads(line) for line in lines[:-1] if line]

    def write_file(self, name: str, content: bytes) -> str:
        """Write a report or a picture; returns where it is."""
        self._store.write(name, content)
        return f"{self}/{name}"

    def _load(self, step: int, entry: Record) -> Snapshot:
        contents = {}
        for suffix in (WEIGHTS, OPTIMIZER):
            file = entry["name"] + suffix
            try:
                contents[suffix] = self._store.read(f"{_folder(step)}/{file}")
            except OSError as error:
                raise UserError(f"{self}: {file} of step {step} cannot be read: {error}") from error
            if hashlib.sha256(contents[suffix]).hexdigest() != entry["files"][file]:
                raise UserError(f"{self}: {file} of step {step} is damaged (its checksum does not match)")
        return from_files(contents[WEIGHTS], contents[OPTIMIZER])


def _folder(step: int) -> str:
    return f"checkpoints/step-{step:08d}"


def _lines(records: list[Record]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()
