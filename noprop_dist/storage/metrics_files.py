"""The lines of a run's records, in one file or several.

metrics.jsonl           on a disk, lines are appended here
metrics/000001.jsonl    an object store cannot append: there lines come into parts, each written whole

Readers take metrics.jsonl first and then the parts by their numbers, on disks and in object stores alike. So a run may
be copied from one to the other and go on there.
"""

import errno
import re
from collections.abc import Iterator
from functools import partial
from itertools import count

from noprop_dist.storage.store import StorageError, Store

METRICS, PARTS = "metrics.jsonl", "metrics"
PART = re.compile(r"([0-9]{6}|[1-9][0-9]{6,8})\.jsonl")
PART_BYTES = 32_768
"""A part of this size is full. Until then each append writes it again, so no append writes more than this beside its
own lines, however long the run is; and there are not so many parts that reading them takes long."""
Place = tuple[int, int]
"""Where a line begins: the number of its file, 0 being metrics.jsonl, and the byte in it."""
BEGINNING: Place = (0, 0)


class MetricsFiles:
    """The files above. Every method raises `StorageError`.

    Args:
        store: of the run directory.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tail: tuple[int, bytes] | None = None
        """The file that lines are appended to, and in an object store what this process has written into it."""

    def append(self, lines: bytes) -> None:
        """Append whole lines: all of them, or none. An append that failed is made again with these lines first."""
        if self._tail is None:
            self._tail = self._numbers()[-1] + (not self._store.is_local), b""
        number, before = self._tail
        if self._store.is_local:
            self._store.append(_name(number), lines)
            return
        self._store.write(_name(number), before + lines)
        is_full = len(before) + len(lines) >= PART_BYTES
        self._tail = (number + 1, b"") if is_full else (number, before + lines)

    def contents(self) -> list[tuple[str, bytes]]:
        """Name and content of every file that is there, in the order of their lines."""
        names = list(map(_name, self._numbers()))
        found = self._store.at_once([partial(self._content, name) for name in names])
        return [(name, content) for name, content in zip(names, found, strict=True) if content is not None]

    def end(self) -> Place:
        """Where the next line would begin; it changes with every line."""
        number = self._numbers()[-1]
        return number, self._size(number)

    def since(self, place: Place) -> tuple[bytes, Place]:
        """The whole lines from a place on, and the place behind them.

        Where a file has become shorter, because lines were taken out, all is read from the beginning.
        """
        number, offset = place
        if self._size(number) < offset:
            return self.since(BEGINNING)
        lines = []
        for each in self._numbers():
            if each < number:
                continue
            number, offset = each, offset if each == number else 0
            content = (self._content(_name(each), offset) if self._size(each) > offset else None) or b""
            lines.append(content[: content.rfind(b"\n") + 1])
            offset += len(lines[-1])
        return b"".join(lines), (number, offset)

    def delete(self) -> None:
        """Delete all lines."""
        self._store.delete(METRICS)
        self._store.delete_folder(PARTS)

    def _numbers(self) -> list[int]:
        """The numbers of the files, rising. A listing may be old; what follows it is asked for one by one."""
        listed = {0, *(int(found[1]) for found in map(PART.fullmatch, self._store.names(PARTS)) if found)}
        return [*sorted(listed), *self._unlisted(max(listed))]

    def _unlisted(self, last: int) -> Iterator[int]:
        if not self._store.is_local:
            for number in count(last + 1):
                if not self._store.exists(_name(number)):
                    return
                yield number

    def _size(self, number: int) -> int:
        try:
            return self._store.size(_name(number))
        except StorageError as error:
            if error.errno != errno.ENOENT:
                raise
            return 0

    def _content(self, name: str, offset: int = 0) -> bytes | None:
        try:
            return self._store.read(name, offset)
        except StorageError as error:
            if error.errno != errno.ENOENT:
                raise
            return None


def _name(number: int) -> str:
    return f"{PARTS}/{number:06d}.jsonl" if number else METRICS
