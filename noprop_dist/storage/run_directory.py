"""One run on disk.

config.yaml          the whole configuration
changes.json         settings that a `resume` changed: of single stages, or how long the run is
data.json            facts of the data set (shape, classes, normalisation)
identity.json        the settings and samples that fix the bits, as the run began; see `identity`
start.json           with training.init_from: where the first weights are from, and their fingerprints
metrics.jsonl        one record a line, see `noprop_dist.records`; during a run `training.run_log` writes it
metrics/             in an object store, what follows it; see `metrics_files`
metrics.bad.jsonl    lines that were taken out of it, if any: damaged ones, and rounds that were there twice
run.lock             held by the one process that writes here, see `lock`
checkpoints/         see `checkpoints`
ray-train/           Ray Train's own checkpoints, made anew by each process that trains the baseline
merge.unfinished     there while a merge writes
"""

import errno
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from noprop_dist.config.bits import may_change
from noprop_dist.config.layers import merge, parse_layer, setting_layer, to_yaml, validated
from noprop_dist.config.schema import RunConfig
from noprop_dist.data.dataset import DataFacts
from noprop_dist.errors import UserError
from noprop_dist.files import JsonObject, check_checksum, json_form, parse_json, with_checksum
from noprop_dist.records import (
    EmbeddingUpdated,
    Record,
    RoundDone,
    complete_lines,
    counted_once,
    from_line,
    is_damaged,
    to_lines,
)
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.checkpoints import Checkpoints
from noprop_dist.storage.identity import Identity, check_began, identity_of
from noprop_dist.storage.lock import LOCK, Say, only_writer
from noprop_dist.storage.manifest import SettingChange, checked_step, checked_texts
from noprop_dist.storage.metrics_files import BEGINNING, METRICS, PARTS, MetricsFiles, Place
from noprop_dist.storage.store import StorageError, Store, cannot_be_used, is_damage

SET_ASIDE = "metrics.bad.jsonl"
RAY_TRAIN_FOLDER = "ray-train"
CONFIG, CHANGES, START, UNFINISHED = "config.yaml", "changes.json", "start.json", "merge.unfinished"
IDENTITY = "identity.json"


@dataclass(frozen=True)
class StartingWeights:
    """The weights of another run that a run begins with.

    Attributes:
        run: where they were taken from, for people.
        step: of the checkpoint there.
        sha256: fingerprints of all stages of that checkpoint, by their file names.
    """

    run: str
    step: int
    sha256: Mapping[str, str]


class RunDirectory:
    """A run's files.

    Args:
        root: a local path or a URI, or a store that is open already; need not exist.
    """

    def __init__(self, root: str | Store) -> None:
        self._store = root if isinstance(root, Store) else Store(root)
        self._metrics = MetricsFiles(self._store)
        self._identity: Identity | None = None

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
        return Checkpoints(self._store, self.identity)

    def identity(self) -> Identity | None:
        """What the run began as; None where none was begun. Read once: a file that is edited meanwhile is not heeded.

        Raises:
            UserError: config.yaml or data.json is damaged.
        """
        if self._identity is None and self.holds_run:
            start = self.start()
            self._identity = identity_of(self._config([]), self.facts(), None if start is None else start.sha256)
        return self._identity

    def check_began(self) -> None:
        """Check that the run is what it began as: before the first snapshot, nothing else says so.

        Raises:
            OtherRunError: it is not.
            UserError: a file that says which run this is cannot be read.
        """
        own = self.identity()
        try:
            values = parse_json(self._store.read(IDENTITY), JsonObject)
            check_checksum(values)
            began = json_form(values["run"], JsonObject, "run")
        except StorageError as error:
            if not is_damage(error):
                raise
            return
        except ValueError:
            return  # damaged, and of no use but for this; runs of before 2026-11-27 have none
        if own is not None:
            check_began(str(self), began, own)

    def only_writer(self, say: Say = lambda _: None) -> AbstractContextManager[None]:
        """A `with` in which no other process writes here.

        Args:
            say: told whom this waits for, and how long at most.

        Raises:
            UserError: another process writes here, or the directory cannot be written at all.
        """
        self._store.before_writing(lambda: None)  # this process may be another writer than before
        return only_writer(self._store, say)

    @property
    def holds_run(self) -> bool:
        """Return True if a run was begun here."""
        return self._store.exists(CONFIG)

    def check_unused(self, *, but_unfinished: bool = False) -> None:
        """Refuse a directory that already holds a run, or a part of one.

        Args:
            but_unfinished: whether what an interrupted merge left may be there.

        Raises:
            UserError: as described.
        """
        blocking = self._store.file_in_the_way()
        if blocking is not None:
            file = "is a file" if blocking == self.local_root else f"{blocking} is a file"
            raise UserError(f"{self}: {file}; a run directory is a new folder")
        if self._store.exists(UNFINISHED):
            if but_unfinished:
                return
            raise UserError(f"{self}: a merge into it was interrupted; repeat it, or give another folder")
        if self.holds_run:
            raise UserError(
                f"{self}: already holds a run; {self.resume_command} continues it, another folder starts a new one"
            )
        left = [name for name in ("checkpoints", RAY_TRAIN_FOLDER, PARTS) if self._store.names(name)]
        left += [name for name in (CHANGES, METRICS) if self._store.exists(name)]
        if left:
            raise UserError(f"{self}: holds {left[0]} but no config.yaml, so a part of a run; give another folder")

    @contextmanager
    def unfinished(self) -> Iterator[None]:
        """Mark the directory while all of it is written, so that an interrupted attempt is seen and can be repeated.

        Raises:
            OSError: it cannot be written.
        """
        if self._store.exists(UNFINISHED):
            self._store.delete_folder("checkpoints")
            for name in (CONFIG, "data.json", IDENTITY, START):
                self._store.delete(name)
            self._metrics.delete()
        self._store.write(UNFINISHED, b"")
        yield
        self._store.delete(UNFINISHED)

    def without_ray_train(self) -> None:
        """Delete what Ray Train has left: it would go on from any snapshot, and delete any folder, that is named there.

        Raises:
            OSError: it cannot be deleted, or is a link.
        """
        self._store.delete_folder(RAY_TRAIN_FOLDER)

    def must_stay(self) -> None:
        """From here on write and delete only while the run is there as it is now.

        A directory that was deleted under a live run is not half made anew, nor is one that another run began in its
        place written into: whatever writes raises StorageError until the directory is back.

        Raises:
            UserError: see `identity`.
        """
        if self.identity() is None:
            return
        owner = self._store.writer or self._owner()

        def check() -> None:
            if owner and self._owner() == owner:
                return  # one request: whoever deletes the directory deletes the lock in it
            if not self.holds_run:
                raise self.gone()
            if self._owner() != owner:
                raise StorageError(errno.ENOENT, f"{self}/{LOCK} is not this run's any more: another one began there")

        self._store.before_writing(check)

    def gone(self) -> StorageError:
        """What is told where a run was, and is no more."""
        return StorageError(
            errno.ENOENT, f"{self}/{CONFIG} is gone: the directory was deleted, or its disk is not there"
        )

    def _owner(self) -> bytes:
        """Who holds the lock; nothing where there is none."""
        try:
            return self._store.read(LOCK).rstrip()
        except StorageError as error:
            if error.errno != errno.ENOENT:
                raise
            return b""

    def create(self, config: RunConfig, facts: DataFacts, start: StartingWeights | None = None) -> None:
        """Begin a run here.

        Args:
            config: of the run.
            facts: of its data set.
            start: the weights that it begins with, if they are those of another run.

        Raises:
            UserError: the directory already holds a run or cannot be written.
        """
        self.check_unused(but_unfinished=True)
        try:
            self._store.write("data.json", json.dumps(facts.to_json(), indent=1).encode())
            if start is not None:
                self._store.write(START, json.dumps(asdict(start), indent=1).encode())
            began = identity_of(config, facts, None if start is None else start.sha256)
            self._store.write(IDENTITY, json.dumps(with_checksum({"run": began}), indent=1).encode())
            self._store.write(CONFIG, to_yaml(config).encode())
        except OSError as error:
            raise cannot_be_used("the run directory cannot be written", error) from error

    def config(self) -> RunConfig:
        """The configuration of the run, with the changes that resumes made.

        Raises:
            UserError: there is no run here, or its file is damaged.
        """
        if not self.holds_run:
            raise UserError(f"{self}: holds no run (there is no config.yaml)")
        if self._store.exists(UNFINISHED):
            raise UserError(f"{self}: holds a part of a merged run; the merge was interrupted and can be repeated")
        return self._config(self.changes())

    def _config(self, changes: Sequence[SettingChange]) -> RunConfig:
        try:
            values = parse_layer(self._store.read(CONFIG), CONFIG)
            for change in changes:
                values = merge(values, setting_layer(change.setting))
            return validated(values)
        except (OSError, ValueError) as error:
            raise cannot_be_used(f"{self}: config.yaml cannot be read", error) from error

    def changes(self) -> list[SettingChange]:
        """Settings that a `resume` changed: of single stages, or how long the run is.

        Raises:
            UserError: the file is damaged.
        """
        if not self._store.exists(CHANGES):
            return []
        try:
            changes = list(map(SettingChange.from_json, parse_json(self._store.read(CHANGES), list)))
            foreign = [each.setting for each in changes if not may_change(each.setting.split("=")[0])]
        except (OSError, ValueError) as error:
            raise cannot_be_used(f"{self}: changes.json cannot be read", error) from error
        if foreign:
            raise UserError(f"{self}: changes.json has {foreign[0]}, which no resume may change: the file was edited")
        return changes

    def add_changes(self, settings: Sequence[str], from_step: Mapping[str, int]) -> None:
        """Write down settings that hold from now on.

        Args:
            settings: "key=value" each.
            from_step: from which they hold, by the file names of the stages.

        Raises:
            OSError: it cannot be written.
        """
        changes = [*self.changes(), *(SettingChange(setting, dict(from_step)) for setting in settings)]
        self._store.write(CHANGES, json.dumps([with_checksum(asdict(change)) for change in changes], indent=1).encode())

    def facts(self) -> DataFacts:
        """The facts of the data set that the run learns from.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            return DataFacts.from_json(parse_json(self._store.read("data.json"), JsonObject))
        except (OSError, ValueError) as error:
            raise cannot_be_used(f"{self}: data.json cannot be read", error) from error

    def start(self) -> StartingWeights | None:
        """The weights of another run that this one began with; None if it began with weights of its own.

        Raises:
            UserError: the file is damaged.
        """
        if not self._store.exists(START):
            return None
        try:
            values = parse_json(self._store.read(START), JsonObject)
            return StartingWeights(str(values["run"]), checked_step(values["step"]), checked_texts(values, "sha256"))
        except (OSError, ValueError) as error:
            raise cannot_be_used(f"{self}: start.json cannot be read", error) from error

    def append_metrics(self, records: Sequence[Record]) -> None:
        """Append records to metrics.jsonl, all or none.

        Raises:
            OSError: it cannot be written.
        """
        self._metrics.append(to_lines(records))

    def metrics(self) -> list[Record]:
        """All records of metrics.jsonl, each round once; a last line that was cut off is left out."""
        return list(counted_once(record for *_, lines in self._metrics_lines() for _, record in lines))

    def metrics_end(self) -> Place:
        """Where the next record would be; it changes with every record."""
        return self._metrics.end()

    def metrics_from(self, place: Place = BEGINNING) -> tuple[list[Record], Place]:
        """The records that were appended to metrics.jsonl since the last call.

        Args:
            place: what the last call returned. Where a file has become shorter, because rounds were forgotten, all
                is read from the beginning.

        Returns:
            The records, and the place of the next one.
        """
        content, place = self._metrics.since(place)
        return [from_line(line) for line in complete_lines(content)], place

    def _metrics_lines(self) -> list[tuple[str, bytes, list[tuple[bytes, Record]]]]:
        """Of each file of records: its name, its content, and its whole lines with what they say."""

        def read(content: bytes) -> list[tuple[bytes, Record]]:
            return [(line, from_line(line.decode(errors="replace"))) for line in content.split(b"\n")[:-1] if line]

        return [(name, content, read(content)) for name, content in self._metrics.contents()]

    def forget_rounds_after(self, done: Mapping[Stage, int]) -> tuple[list[Record], list[str]]:
        """Drop the records of rounds that will be done again, so that nothing is counted twice.

        Damaged lines, and rounds that are there a second time, are moved to metrics.bad.jsonl. A last line that was cut
        off is dropped. All other lines are kept as they are, to the byte, those of a later version among them; where
        all are kept, nothing is written.

        Args:
            done: steps at which each stage goes on.

        Returns:
            The records that are left, and warnings of what was set aside.
        """
        files = self._metrics_lines()
        once = {id(record) for record in counted_once(record for *_, lines in files for _, record in lines)}
        bad, left, rewritten = list[bytes](), list[Record](), dict[str, bytes]()
        for name, content, lines in files:
            good = [each for each in lines if not is_damaged(each[1]) and id(each[1]) in once]
            bad += [line for line, record in lines if is_damaged(record) or id(record) not in once]
            kept = [each for each in good if not _is_done_again(each[1], done)]
            left += [record for _, record in kept]
            if (new := _joined(line for line, _ in kept)) != content:
                rewritten[name] = new  # nearly never; and a full disk keeps no run from going on
        if bad:
            before = self._store.read(SET_ASIDE) if self._store.exists(SET_ASIDE) else b""
            self._store.write(SET_ASIDE, before + _joined(bad))
        for name, new in rewritten.items():
            self._store.write(name, new)
        told = f"{self}: {len(bad)} line(s) of {METRICS} are damaged or there twice; they are set aside in {SET_ASIDE}"
        return left, [told] if bad else []

    def write_file(self, name: str, content: bytes) -> str:
        """Write a report or a picture; returns where it is."""
        self._store.write(name, content)
        return f"{self}/{name}"


def _joined(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _is_done_again(record: Record, done: Mapping[Stage, int]) -> bool:
    match record:
        case RoundDone():
            return record.step > done.get(record.stage, 0)
        case EmbeddingUpdated():
            return record.step > done.get(EMBEDDING, 0)
    return False
