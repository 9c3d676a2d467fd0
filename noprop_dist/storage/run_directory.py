"""One run on disk.

config.yaml          the whole configuration
changes.json         settings that a `resume` changed for single stages, if any
data.json            facts of the data set (shape, classes, normalisation)
metrics.jsonl        one JSON object a line
run.lock             held by the one process that writes here
checkpoints/         see `checkpoint_files`
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property

import yaml

from noprop_dist.config.layers import merge, setting_layer, to_yaml, validated
from noprop_dist.config.schema import RunConfig
from noprop_dist.data.dataset import DataFacts
from noprop_dist.errors import UserError
from noprop_dist.storage.checkpoint_files import CheckpointFiles, Record
from noprop_dist.storage.lock import only_writer
from noprop_dist.storage.store import Store


class RunDirectory:
    """A run's files.

    Args:
        root: a local path or a URI; need not exist.
    """

    def __init__(self, root: str) -> None:
        self._store = Store(root)

    def __str__(self) -> str:
        return str(self._store)

    @cached_property
    def checkpoints(self) -> CheckpointFiles:
        """The snapshots and checkpoints of the run."""
        return CheckpointFiles(self._store)

    def only_writer(self) -> AbstractContextManager[None]:
        """A `with` within which no other process writes here.

        Raises:
            UserError: another one does, or the directory cannot be written at all.
        """
        return only_writer(self._store)

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return self._store.exists("config.yaml")

    def check_unused(self) -> None:
        """Refuse a directory that already holds a run.

        Raises:
            UserError: as described.
        """
        if self.holds_run:
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
        """The configuration of the run, with the changes that were made on the way.

        Raises:
            UserError: there is no run here, or its file is damaged.
        """
        if not self.holds_run:
            raise UserError(f"{self}: holds no run (there is no config.yaml)")
        try:
            values = yaml.safe_load(self._store.read("config.yaml"))
            for change in self.changes():
                values = merge(values, setting_layer(change["setting"]))
            return validated(values)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{self}: config.yaml cannot be read: {error}") from error

    def changes(self) -> list[Record]:
        """Settings that a `resume` changed for single stages: {"setting": "key=value", "from_step": {stage: step}}.

        Raises:
            UserError: the file is damaged.
        """
        if not self._store.exists("changes.json"):
            return []
        try:
            changes: list[Record] = json.loads(self._store.read("changes.json"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self}: changes.json cannot be read: {error}") from error
        return changes

    def add_changes(self, settings: Sequence[str], from_step: Mapping[str, int]) -> None:
        """Write down settings that hold from now on.

        Raises:
            OSError: it cannot be written.
        """
        added = [{"setting": setting, "from_step": dict(from_step)} for setting in settings]
        self._store.write("changes.json", json.dumps(self.changes() + added, indent=1).encode())

    def facts(self) -> DataFacts:
        """The facts of the data set that the run learns from.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            return DataFacts.from_json(json.loads(self._store.read("data.json")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{self}: data.json cannot be read: {error}") from error

    def append_metrics(self, records: list[Record]) -> None:
        """Append records to metrics.jsonl, all or none.

        Raises:
            OSError: it cannot be written.
        """
        self._store.append("metrics.jsonl", _lines(records))

    def metrics(self) -> list[Record]:
        """All records of metrics.jsonl; a last line that was cut off is left out."""
        if not self._store.exists("metrics.jsonl"):
            return []
        lines = self._store.read("metrics.jsonl").decode().split("\n")
        return [json.loads(line) for line in lines[:-1] if line]

    def forget_rounds_after(self, steps: Mapping[str, int]) -> list[Record]:
        """Drop the records of rounds that will be done again, so that nothing is counted twice.

        Args:
            steps: at which each stage goes on, by the stages' names for people.

        Returns:
            The records that are left.
        """
        kept = [
            record
            for record in self.metrics()
            if record["kind"] != "round" or record["step"] <= steps.get(record["stage"], 0)
        ]
        self._store.write("metrics.jsonl", _lines(kept))
        return kept

    def write_file(self, name: str, content: bytes) -> str:
        """Write a report or a picture; returns where it is."""
        self._store.write(name, content)
        return f"{self}/{name}"


def _lines(records: list[Record]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()
