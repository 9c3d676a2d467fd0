"""A file of predictions, CSV or Parquet, that an interrupted process leaves so that another can go on.

* OUT: image, class, probability, and the probability of each class; appears once it is whole
* OUT.json: which network, sampler and images the predictions are of, what was left out, and the fingerprint of OUT
* OUT.partial: until then: the probabilities of the samples that are done, in batches; see `Journal`
* OUT.new, OUT.json.new: while OUT and OUT.json are written
* OUT.changed-SHA256: what OUT had become when it was found to be no longer what was written
"""

import csv
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from noprop_dist.errors import UserError
from noprop_dist.files import JsonObject, local_path, open_file, parse_json

FORMATS = ".csv", ".parquet"
ROWS_AT_A_TIME = 10_000
MADE_BY = "noprop-dist predict"
Rows = Iterator[tuple[list[str], list[str], NDArray[np.float32]]]
"""Parts of a table: names of samples, their classes, and all probabilities (n, m)."""


class Journal:
    """Probabilities of the first samples, appended batch by batch. One process at a time may write them.

    After each batch stands the SHA-256 of all batches up to it. A batch that was not written to its end, or that is no
    longer what was written, is dropped with all that follow.

    Args:
        opened: the file, for reading and appending.
        classes: m.
        batch: rows of a batch.
        samples: in all; there are no more rows.

    Attributes:
        rows: that are done.
        damaged: whether more of the file was dropped than the beginning of a batch.
    """

    def __init__(self, opened: BinaryIO, classes: int, batch: int, samples: int) -> None:
        self._opened, self._classes = opened, classes
        self._batch, self._samples = batch, samples
        self._digest = hashlib.sha256()
        self.rows = 0
        while self._next_is_whole():
            pass
        left = os.fstat(opened.fileno()).st_size - self._place(self.rows)
        self.damaged = left > 0 and left >= self._size(self._next())
        self._cut()

    def append(self, probabilities: NDArray[np.float32]) -> None:
        """Write the next batch, all or none of it."""
        content = probabilities.astype("<f4").tobytes()
        digest = self._digest.copy()
        digest.update(content)
        left = memoryview(content + digest.digest())
        try:
            while left:
                left = left[os.write(self._opened.fileno(), left) :]
        except OSError:
            self._cut()
            raise
        self._digest = digest
        self.rows += len(probabilities)

    def parts(self) -> Iterator[NDArray[np.float32]]:
        """All rows that were written, some batches at a time, (n, m)."""
        rows = max(1, ROWS_AT_A_TIME // self._batch) * self._batch
        for first in range(0, self.rows, rows):
            starts = range(first, min(first + rows, self.rows), self._batch)
            yield np.concatenate([self._read(row, min(self._batch, self.rows - row))[0] for row in starts])

    def _next_is_whole(self) -> bool:
        """Go on behind the next batch; return False where there is none as it was written."""
        rows = self._next()
        probabilities, written = self._read(self.rows, rows)
        digest = self._digest.copy()
        digest.update(probabilities.tobytes())
        if not rows or digest.digest() != written:
            return False
        self._digest = digest
        self.rows += rows
        return True

    def _next(self) -> int:
        return min(self._batch, self._samples - self.rows)

    def _read(self, row: int, rows: int) -> tuple[NDArray[np.float32], bytes]:
        """The batch that begins with a row, and the digest after it; less where the file ends."""
        content = os.pread(self._opened.fileno(), self._size(rows), self._place(row))
        length = min(len(content) // self._row_bytes, rows) * self._row_bytes
        return np.frombuffer(content[:length], dtype="<f4").reshape(-1, self._classes), content[length:]

    @property
    def _row_bytes(self) -> int:
        return 4 * self._classes

    def _size(self, rows: int) -> int:
        return rows * self._row_bytes + hashlib.sha256().digest_size if rows else 0

    def _place(self, row: int) -> int:
        """Of the batch that begins with this row."""
        return row // self._batch * self._size(self._batch) + self._size(row % self._batch)

    def _cut(self) -> None:
        os.ftruncate(self._opened.fileno(), self._place(self.rows))


class PredictionsFile:
    """A file of predictions, and what lies beside it.

    Args:
        out: ends in .csv or .parquet.
        of: what the predictions are of, as plain values; another process goes on only with the very same.
        class_names: m names.

    Raises:
        UserError: it has another ending, its folder is not there, or it is there and holds other predictions.
    """

    def __init__(self, out: str | Path, of: Mapping[str, Any], class_names: Sequence[str]) -> None:
        self._out = local_path(out)
        self._of, self._class_names = dict(of), class_names
        if self._out.suffix.lower() not in FORMATS:
            raise UserError(f"out={self._out}: must end in .csv or .parquet")
        if not self._out.parent.is_dir():
            raise UserError(f"out={out}: there is no folder {self._out.parent}")
        if self._out.is_dir():
            raise UserError(f"out={out}: is a folder; a new file is needed")
        self._about, self._partial = self._beside(".json"), self._beside(".partial")
        self._check_own()

    def is_complete(self, say: Callable[[str], None]) -> bool:
        """Return True if the file is there as it was written. One that was cut or edited since is set aside.

        Args:
            say: told where it is then.
        """
        if not os.path.lexists(self._out):
            return False
        found = _sha256(self._out)
        if found == self._read_about().get("sha256"):
            return True
        aside = self._beside(f".changed-{found[:16]}")  # what has this name already is the very same
        self._out.replace(aside)
        say(f"{self._out}: was changed since it was written; it is {aside.name} now, and is written anew")
        return False

    def left_out(self) -> int:
        """The samples that a whole file does not have."""
        names = self._read_about().get("left_out")
        return len(names) if isinstance(names, list) else 0

    @contextmanager
    def journal(self, batch: int, samples: int, say: Callable[[str], None]) -> Iterator[Journal]:
        """What is done so far, to be added to; see `Journal`.

        Args:
            batch: rows of a batch.
            samples: in all.
            say: told if what was done is damaged.

        Raises:
            UserError: another process is adding to it.
        """
        with open(self._partial, "a+b", buffering=0) as opened:  # noqa: PTH123 (a mode that says more than a method)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{self._partial}: another process is writing it") from error
            self._write_about({})
            journal = Journal(opened, len(self._class_names), batch, samples)
            if journal.damaged:
                say(f"{self._partial}: is damaged after {journal.rows:,} samples; it goes on from there")
            yield journal

    def write(self, journal: Journal, name: Callable[[int], str]) -> None:
        """Write the file of what a journal holds, and delete that.

        Args:
            journal: of all samples.
            name: of a sample, by its number.
        """
        left_out: list[str] = []
        table = self._table(journal, name, left_out)
        fresh = self._beside(".new")
        write = _write_csv if self._out.suffix.lower() == ".csv" else _write_parquet
        write(fresh, table, self._class_names)
        self._write_about({"samples": journal.rows, "left_out": left_out, "sha256": _sha256(fresh)})
        fresh.replace(self._out)
        self._partial.unlink()

    def _table(self, journal: Journal, name: Callable[[int], str], left_out: list[str]) -> Rows:
        done = 0
        for probabilities in journal.parts():
            names = [_text(name(row)) for row in range(done, done + len(probabilities))]
            done += len(probabilities)
            known = np.flatnonzero(probabilities[:, 0] >= 0)
            left_out += [names[row] for row in np.flatnonzero(probabilities[:, 0] < 0)]
            classes = [_text(self._class_names[label]) for label in probabilities[known].argmax(axis=1)]
            yield [names[row] for row in known], classes, probabilities[known]

    def _check_own(self) -> None:
        unfinished = self._beside(".new"), self._beside(".json.new")
        there = [path for path in (self._out, self._partial, *unfinished, self._about) if os.path.lexists(path)]
        if not there:
            return
        of = self._read_about().get("of")
        if not isinstance(of, dict):
            raise UserError(f"{there[0]}: is there already, and nothing says of which predictions; give another file")
        if there == [self._about]:
            return  # of predictions that were deleted
        for key in dict.fromkeys([*self._of, *of]):
            if of.get(key) != self._of.get(key):
                raise UserError(
                    f"{there[0]}: holds predictions with another {key} ({of.get(key)}, and not {self._of.get(key)}); "
                    f"give another file, or delete it"
                )

    def _beside(self, ending: str) -> Path:
        return self._out.with_name(self._out.name + ending)

    def _read_about(self) -> dict[str, Any]:
        try:
            with open_file(self._about) as opened:
                values = parse_json(opened.read(), JsonObject)
        except (OSError, ValueError):
            return {}
        return values if values.get("made_by") == MADE_BY else {}

    def _write_about(self, result: Mapping[str, Any]) -> None:
        fresh = self._beside(".json.new")
        fresh.write_text(json.dumps({"made_by": MADE_BY, "of": self._of, **result}, indent=1))
        fresh.replace(self._about)


def _sha256(file: Path) -> str:
    with open_file(file) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _columns(class_names: Sequence[str]) -> list[str]:
    return ["image", "class", "probability", *(f"p_{_text(name)}" for name in class_names)]


def _write_csv(file: Path, table: Rows, class_names: Sequence[str]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(_columns(class_names))
        for names, classes, probabilities in table:
            for name, label, row in zip(names, classes, probabilities.tolist(), strict=True):
                writer.writerow([name, label, f"{max(row):.6g}", *(f"{p:.6g}" for p in row)])
        opened.flush()
        os.fsync(opened.fileno())


def _write_parquet(file: Path, table: Rows, class_names: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = _columns(class_names)
    kinds = [pa.string(), pa.string(), *[pa.float32()] * (len(columns) - 2)]
    schema = pa.schema(list(zip(columns, kinds, strict=True)))
    with file.open("wb") as opened:
        with parquet.ParquetWriter(opened, schema) as writer:
            for names, classes, probabilities in table:
                arrays = [pa.array(names, pa.string()), pa.array(classes, pa.string()), probabilities.max(axis=1)]
                writer.write_table(pa.table([*arrays, *probabilities.T], schema=schema))
        opened.flush()
        os.fsync(opened.fileno())


def _text(name: str) -> str:
    """A name as UTF-8 has it; bytes of a file's name that are none are written out."""
    return os.fsencode(name).decode(errors="backslashreplace")
