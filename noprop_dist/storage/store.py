"""Small files under one root, written atomically: a local folder or any URI that pyarrow knows (s3://, gs://, …)."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs

from noprop_dist.errors import UserError
from noprop_dist.files import local_path
from noprop_dist.machine import HERE, Machine
from noprop_dist.printable import has_secrets, printable, without_secrets
from noprop_dist.storage.local_files import LocalFiles, RefusedPathError
from noprop_dist.storage.object_files import OBJECT_STORE_ERRORS, ObjectFiles, open_uri
from noprop_dist.storage.system import System

T = TypeVar("T")
MOST_AT_ONCE = 16
"""Requests that one call has under way at the same time."""
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""What the system says where there is no such file."""


class StorageError(OSError):
    """A file cannot be read or written; the text is one line that names it and the reason."""

    def __str__(self) -> str:
        return without_secrets(str(self.strerror))


class UnusableStorageError(UserError):
    """Something cannot be read or written because the storage fails; the same may work later."""


def cannot_be_used(what: str, error: Exception) -> UserError:
    """The error that tells a user that something of a run directory cannot be used, and why.

    Args:
        what: cannot be used; the beginning of the sentence.
        error: that says why.
    """
    passing = isinstance(error, OSError) and not isinstance(error, UserError) and error.errno not in MISSING
    return (UnusableStorageError if passing else UserError)(f"{what}: {error}")


def is_damage(error: OSError) -> bool:
    """Return True if what was asked for is missing or broken, so that another copy may do.

    Else the storage does not answer, is full or refuses this user, and nobody knows what it holds.
    """
    return isinstance(error, RefusedPathError) or error.errno in (*MISSING, errno.EIO)


class Store:
    """Files by name under a root; folders are made when they are needed.

    `str` of it is its name for people: no user, no secret, no options, no control characters.
    Every method raises `StorageError` where the storage cannot be read or written.

    Args:
        root: a local path or a URI.
        files: at the root, where they are open already; then nothing is opened here.
        machine: whose clock and threads the lock takes.

    Attributes:
        root: the path, absolute, or the URI with all that it carries. Never shown.
        machine: as given.
        writer: what the lock holds while this process is the only writer; else empty.

    Raises:
        UserError: pyarrow knows no such file system.
    """

    def __init__(self, root: str, files: LocalFiles | ObjectFiles | None = None, machine: Machine = HERE) -> None:
        self.root = root if "://" in root or files is not None else _absolute(root)
        self.machine = machine
        self.writer = b""
        self._before_writing: Callable[[], None] = lambda: None
        self._files = files if files is not None else self._open()

    def _open(self) -> LocalFiles | ObjectFiles:
        if "://" not in self.root:
            return LocalFiles(self.root)
        try:
            files, path = open_uri(self.root)
        except OBJECT_STORE_ERRORS as error:
            reason = f"is no path or URI that can be opened: {error}".replace(self.root, str(self))
            raise UserError(f"{self}: {reason}") from None
        if isinstance(files, fs.LocalFileSystem):
            return LocalFiles(path)
        if not path.strip("/"):
            raise UserError(f"{self}: is no path or URI that can be opened: it names no bucket")
        return ObjectFiles(files, path)

    def __str__(self) -> str:
        if "://" not in self.root:
            return printable(self.root)
        scheme, slashes, rest = without_secrets(self.root).partition("?")[0].partition("://")
        return printable(f"{scheme}{slashes}{rest.rstrip('/')}")

    @property
    def link(self) -> str:
        """What names this root in a command. A URI keeps its options but no secret; see `link_lacks_secrets`."""
        return printable(without_secrets(self.root) if "://" in self.root else self.root)

    @property
    def link_lacks_secrets(self) -> bool:
        """Return True if `link` only opens with credentials from the environment."""
        return "://" in self.root and has_secrets(self.root)

    def before_writing(self, check: Callable[[], None]) -> None:
        """Have this called before all that changes files from here on; an OSError that it raises is told as theirs."""
        self._before_writing = check

    def read(self, name: str, offset: int = 0) -> bytes:
        """The whole file, or what follows the first `offset` bytes."""
        with self._telling(name):
            return self._files.read(name, offset)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        with self._telling(name):
            return self._files.size(name)

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file; it is there whole or not at all."""
        with self._telling(name):
            self._before_writing()
            self._files.write(name, content)

    def write_all(self, contents: Mapping[str, bytes]) -> None:
        """Write or replace several files, in any order; each is there whole or not at all."""
        self._change_all(self._files.write, list(contents.items()))

    def delete_all(self, names: Sequence[str]) -> None:
        """Delete several files, in any order, as far as they are there."""
        self._change_all(self._files.delete, [(name,) for name in names])

    def _change_all(self, change: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> None:
        def one(name: str, *more: Any) -> None:
            with self._telling(name):
                change(name, *more)

        with self._telling(arguments[0][0]):
            self._before_writing()
        self.at_once([partial(one, *each) for each in arguments])

    def append(self, name: str, content: bytes) -> None:
        """Append to a file of a local root, all or nothing."""
        assert isinstance(self._files, LocalFiles)
        with self._telling(name):
            self._before_writing()
            self._files.append(name, content)

    def exists(self, name: str) -> bool:
        """Return True if there is such a file or folder."""
        with self._telling(name):
            return self._files.exists(name)

    def names(self, folder: str) -> list[str]:
        """Names within a folder, sorted; none where there is no such folder."""
        with self._telling(folder):
            return self._files.names(folder)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        with self._telling(name):
            self._before_writing()
            self._files.delete(name)

    def delete_folder(self, folder: str) -> None:
        """Delete a folder and all in it, if it is there."""
        with self._telling(folder):
            self._before_writing()
            self._files.delete_folder(folder)

    def at_once(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Do tasks that use this store: in an object store several at the same time, for each waits for answers.

        Returns:
            Their results, in order.

        Raises:
            Exception: the first that a task raised; then all are over.
        """
        if self.is_local or len(tasks) < 2:
            return [task() for task in tasks]
        threads = [self.machine.thread("transfer") for _ in tasks[:MOST_AT_ONCE]]
        doing = [threads[number % MOST_AT_ONCE].submit(task) for number, task in enumerate(tasks)]
        for thread in threads:
            thread.shutdown(wait=False)
        for each in doing:
            each.exception()
        return [each.result() for each in doing]

    @property
    def system(self) -> System:
        """The system calls of a local root."""
        assert isinstance(self._files, LocalFiles)
        return self._files.system

    @property
    def local_root(self) -> Path | None:
        """The root where it is a folder of this machine's file systems."""
        return Path(self._files.root) if isinstance(self._files, LocalFiles) else None

    def file_in_the_way(self) -> Path | None:
        """What keeps a local root from being a folder: a file of its name, or of that of a folder above it."""
        file = self._files.file_in_the_way() if isinstance(self._files, LocalFiles) else None
        return None if file is None else Path(file)

    @property
    def is_local(self) -> bool:
        """Return True if the root is a folder of this machine's file systems."""
        return self.local_root is not None

    def open_to_lock(self, name: str) -> int:
        """A descriptor of a file of a local root, made if it is not there."""
        assert isinstance(self._files, LocalFiles)
        with self._telling(name):
            self._before_writing()
            return self._files.open(name, os.O_RDWR | os.O_CREAT)

    @contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        """Make one kind of error of all that a file system raises: what has no name in it is of no use to anybody."""
        try:
            yield
        except (RefusedPathError, StorageError):
            raise
        except OBJECT_STORE_ERRORS as error:
            number = errno.ENOENT if isinstance(error, FileNotFoundError) else getattr(error, "errno", None)
            reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
            raise StorageError(number, f"{self}{name and '/'}{printable(name)}: {reason}") from None


def _absolute(root: str) -> str:
    """A local path from the root of the file system, without links.

    Raises:
        UserError: no path can be so: a name is too long, links lead to themselves, or there is no home for ~.
    """
    if not root:
        raise UserError("the run directory has no name: the path is empty")
    path = Path(os.path.realpath(local_path(root)))
    try:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()
    except OSError as error:
        raise UserError(f"{printable(root)}: is no path that can be opened: {error.strerror}") from None
    return str(path)
