"""One run on disk.

config.yaml          the whole configuration
changes.json         settings that a `resume` changed for single stages, if any
data.json            facts of the data set (shape, classes, normalisation)
metrics.jsonl        one record a line, see `noprop_dist.records`; during a run `training.run_log` writes it
run.lock             held by the one process that writes here, see `lock`
checkpoints/         see `checkpoints`
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import yaml

from noprop_dist.config.layers import merge, setting_layer, to_yaml, validated
from noprop_dist.config.schema import RunConfig
from noprop_dist.data.dataset import DataFacts
from noprop_dist.errors import UserError
from noprop_dist.records import EmbeddingUpdated, Record, RoundDone, complete_lines, from_line, to_lines
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.checkpoints import Checkpoints, SettingChange
from noprop_dist.storage.lock import only_writer
from noprop_dist.storage.store import Store

METRICS = "metrics.jsonl"


class RunDirectory:
    """A run's files.

    Args:
        root: a local path or a URI; need not exist.
    """

    def __init__(self, root: str) -> None:
        self._store = Store(root)

    def __str__(self) -> str:
        """Its name for people; see `Store`."""
        return str(self._store)

    @property
    def root(self) -> str:
        """What opens it again: an absolute path, or the URI with all that it carries. Never shown."""
        return self._store.root

    @property
    def local_root(self) -> Path | None:
        """Where it lies, if that is a folder of this machine's file systems."""
        return self._store.local_root

    @property
    def link(self) -> str:
        """What names it in a command; see `Store.link`."""
        return self._store.link

    @property
    def resume_command(self) -> str:
        """The command that continues the run, in backquotes."""
        where = " (with the credentials in the environment)" if self._store.link_lacks_secrets else ""
        return f"`noprop-dist resume {shlex.quote(self.link)}`{where}"

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The snapshots and checkpoints of the run."""
        return Checkpoints(self._store)

    def only_writer(self) -> AbstractContextManager[None]:
        """A `with` in which no other process writes here.

        Raises:
            UserError: another process writes here, or the directory cannot be written at all.
        """
        return only_writer(self._store)

    @property
    def holds_run(self) -> bool:
        """Return True if a run was begun here."""
        return self._store.exists("config.yaml")

    def check_unused(self) -> None:
        """Refuse a directory that already holds a run.

        Raises:
            UserError: as described.
        """
        if self.holds_run:
            raise UserError(
                f"{self}: already holds a run; {self.resume_command} continues it, another --run-dir starts a new one"
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
        """The configuration of the run, with the changes that resumes made.

        Raises:
            UserError: there is no run here, or its file is damaged.
        """
        if not self.holds_run:
            raise UserError(f"{self}: holds no run (there is no config.yaml)")
        try:
            values = yaml.safe_load(self._store.read("config.yaml"))
            for change in self.changes():
                values = merge(values, setting_layer(change.setting))
            return validated(values)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{self}: config.yaml cannot be read: {error}") from error

    def changes(self) -> list[SettingChange]:
        """Settings that a `resume` changed for single stages.

        Raises:
            UserError: the file is damaged.
        """
        if not self._store.exists("changes.json"):
            return []
        try:
            return [SettingChange(**change) for change in json.loads(self._store.read("changes.json"))]
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{self}: changes.json cannot be read: {error}") from error

    def add_changes(self, settings: Sequence[str], from_step: Mapping[str, int]) -> None:
        """Write down settings that hold from now on.

        Args:
            settings: "key=value" each.
            from_step: from which they hold, by the file names of the stages.

        Raises:
            OSError: it cannot be written.
        """
        changes = [*self.changes(), *(SettingChange(setting, dict(from_step)) for setting in settings)]
        self._store.write("changes.json", json.dumps([asdict(change) for change in changes], indent=1).encode())

    def facts(self) -> DataFacts:
        """The facts of the data set that the run learns from.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            return DataFacts.from_json(json.loads(self._store.read("data.json")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{self}: data.json cannot be read: {error}") from error

    def append_metrics(self, records: Sequence[Record]) -> None:
        """Append records to metrics.jsonl, all or none.

        Raises:
            OSError: it cannot be written.
        """
        self._store.append(METRICS, to_lines(records))

    def metrics(self) -> list[Record]:
        """All records of metrics.jsonl; a last line that was cut off is left out."""
        return self.metrics_from(0)[0]

    def metrics_from(self, offset: int) -> tuple[list[Record], int]:
        """The records that were appended to metrics.jsonl since the last call.

        Args:
            offset: what the last call returned; 0 for all records. Where the file has become shorter, because
                rounds were forgotten, it is read from its beginning.

        Returns:
            The records, and the offset in bytes of the next one.
        """
        if not self._store.exists(METRICS):
            return [], 0
        offset = offset if offset <= self._store.size(METRICS) else 0
        content = self._store.read(METRICS, offset)
        return [from_line(line) for line in complete_lines(content)], offset + content.rfind(b"\n") + 1

    def forget_rounds_after(self, done: Mapping[Stage, int]) -> list[Record]:
        """Drop the records of rounds that will be done again, so that nothing is counted twice.

        All other lines are kept as they are, to the byte, whether this version can read them or not.

        Args:
            done: steps at which each stage goes on.

        Returns:
            The records that are left.
        """
        content = self._store.read(METRICS) if self._store.exists(METRICS) else b""
        lines = [line for line in content.split(b"\n")[:-1] if line]
        records = [from_line(line.decode(errors="replace")) for line in lines]
        keep = [not _is_done_again(record, done) for record in records]
        self._store.write(METRICS, b"".join(line + b"\n" for line, kept in zip(lines, keep, strict=True) if kept))
        return [record for record, kept in zip(records, keep, strict=True) if kept]

    def write_file(self, name: str, content: bytes) -> str:
        """Write a report or a picture; returns where it is."""
        self._store.write(name, content)
        return f"{self}/{name}"


def _is_done_again(record: Record, done: Mapping[Stage, int]) -> bool:
    match record:
        case RoundDone():
            return record.step > done.get(record.stage, 0)
        case EmbeddingUpdated():
            return record.step > done.get(EMBEDDING, 0)
    return False
