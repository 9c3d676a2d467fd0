"""Files below one local folder. No symbolic link below it is followed, for a run directory may be a stranger's."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from noprop_dist.errors import UserError
from noprop_dist.storage.system import THIS_SYSTEM, System


class RefusedPathError(UserError, OSError):
    """A name leads out of the root, or to what is neither a file nor a folder."""


class LocalFiles:
    """Files by name under a root, which itself may be a link. Where a folder is asked for, "" is the root.

    Every method raises:
        OSError: the file cannot be read or written.
        RefusedPathError: a part of the name is a symbolic link.

    Args:
        root: absolute path; need not exist.
        system: what carries out system calls.
    """

    def __init__(self, root: str, system: System = THIS_SYSTEM) -> None:
        self.root = root
        self.system = system

    def read(self, name: str, offset: int = 0) -> bytes:
        descriptor = self.open(name, os.O_RDONLY)
        try:
            end, parts = self.system.fstat(descriptor).st_size, []
            # One byte more than there should be, so that a file that grows meanwhile is read on.
            while part := self.system.pread(descriptor, max(end - offset, 0) + 1, offset):
                parts.append(part)
                offset += len(part)
        finally:
            self.system.close(descriptor)
        return b"".join(parts)

    def size(self, name: str) -> int:
        with self._folder_of(name) as (folder, last):
            return self.system.stat(last, dir_fd=folder, follow_symlinks=False).st_size

    def exists(self, name: str) -> bool:
        if not name:
            return self.system.lexists(self.root)
        try:
            self.size(name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def names(self, folder: str) -> list[str]:
        try:
            with self._folder_of(f"{folder}/x" if folder else "x") as (descriptor, _):
                return sorted(self.system.listdir(descriptor))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write(self, name: str, content: bytes) -> None:
        system = self.system
        with self._folder_of(name, make=True) as (folder, last):
            partial = f"{last}.partial"
            with suppress(FileNotFoundError):
                system.unlink(partial, dir_fd=folder)
            fresh = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # never a file that is there already under another name, too
            try:
                descriptor = system.open(partial, fresh, 0o666, dir_fd=folder)
                try:
                    self._write_all(descriptor, content)
                finally:
                    system.close(descriptor)
                system.replace(partial, last, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with suppress(OSError):  # a full disk has no room for what nobody will read
                    system.unlink(partial, dir_fd=folder)
                raise

    def append(self, name: str, content: bytes) -> None:
        """Append all or nothing: a full disk takes the first part of what it is given."""
        descriptor = self.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            size = self.system.fstat(descriptor).st_size
            try:
                self._write_all(descriptor, content)
            except OSError:
                self.system.ftruncate(descriptor, size)
                raise
        finally:
            self.system.close(descriptor)

    def _write_all(self, descriptor: int, content: bytes) -> None:
        left = memoryview(content)
        while left:
            left = left[self.system.write(descriptor, left) :]

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError), self._folder_of(name) as (folder, last):
            self.system.unlink(last, dir_fd=folder)

    def delete_folder(self, name: str) -> None:
        if not name:
            self.system.rmtree(self.root)
            return
        with suppress(FileNotFoundError), self._folder_of(f"{name}/x"), self._folder_of(name) as (folder, last):
            self.system.rmtree(last, dir_fd=folder)

    def file_in_the_way(self) -> str | None:
        """The root or the nearest folder above it that is there, if that is no folder but a file."""
        nearest = self.root
        while not self.system.lexists(nearest):
            nearest = os.path.dirname(nearest)  # noqa: PTH120 (text is faster)
        return None if self.system.isdir(nearest) else nearest

    def _make_root(self) -> None:
        try:
            self.system.makedirs(self.root, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, "there is a file of this name", self.root) from error

    def open(self, name: str, flags: int) -> int:
        """A descriptor of a regular file; its folder is made where the flags create the file."""
        with self._folder_of(name, make=bool(flags & os.O_CREAT)) as (folder, last):
            descriptor = self._open(name, last, flags, folder)
        facts, writes = self.system.fstat(descriptor), flags & (os.O_WRONLY | os.O_RDWR)
        reason = "" if stat.S_ISREG(facts.st_mode) else "is no regular file"
        if writes and facts.st_nlink > 1:
            reason = "has another name, too (a hard link), and what is written here would be there; make a copy of it"
        if reason:
            self.system.close(descriptor)
            raise RefusedPathError(f"{self.root}/{name}: {reason}")
        return descriptor

    @contextmanager
    def _folder_of(self, name: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """A descriptor of the folder that a file lies in, opened part by part, and the last part of its name."""
        *folders, last = checked_parts(name)
        if make:
            self._make_root()
        descriptor = self.system.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for folder in folders:
                if make:
                    with suppress(FileExistsError):
                        self.system.mkdir(folder, dir_fd=descriptor)
                inner = self._open(name, folder, os.O_RDONLY | os.O_DIRECTORY, descriptor)
                self.system.close(descriptor)
                descriptor = inner
            yield descriptor, last
        finally:
            self.system.close(descriptor)

    def _open(self, name: str, part: str, flags: int, folder: int) -> int:
        try:
            # Without O_NONBLOCK a named pipe would be waited for.
            return self.system.open(part, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=folder)
        except OSError as error:
            if self._is_link(part, folder):
                raise RefusedPathError(
                    f"{self.root}/{name}: {part} is a symbolic link; links in a run directory are not followed"
                ) from error
            error.filename = f"{self.root}/{name}"
            raise

    def _is_link(self, part: str, folder: int) -> bool:
        try:
            return stat.S_ISLNK(self.system.stat(part, dir_fd=folder, follow_symlinks=False).st_mode)
        except OSError:
            return False


def checked_parts(name: str) -> list[str]:
    """The parts of a file's name below a root.

    Raises:
        RefusedPathError: it would lead elsewhere.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise RefusedPathError(f"{name!r}: is no name of a file in a run directory")
    return parts
