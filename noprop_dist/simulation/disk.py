"""A local disk in memory: the part of POSIX that `LocalFiles` and the lock rely on, and what disks do wrong.

There are files and folders; no links of any kind. A path is absolute, or one name in an open folder.
"""

import errno
import fcntl
import os
import random
import stat
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

Hook: TypeAlias = Callable[[str, str], None]
"""Told the operation, by its name in `os`, and the path before it takes effect. It may wait, raise an OSError or
`Torn`, or raise what is no Exception because the process ends there. `close` and `fstat` touch no disk: not told."""
REMEMBERED_SECONDS = 60.0
"""Linux writes to the disk what is older than 30 s."""
FATES = ("whole", "cut", "empty", "zeros")
"""What the loss of power makes of a file that was written just before, and not synced."""


class Torn(Exception):  # noqa: N818 (no error but what a hook asks for)
    """Raised by the hook of a write, which takes the first bytes and then fails.

    Args:
        length: bytes that are written.
        error: raised after that, be it the end of the process; None if the write just returns their number.
    """

    def __init__(self, length: int, error: BaseException | None = None) -> None:
        super().__init__(length, error)
        self.length, self.error = length, error


class _File:
    """Content.

    Attributes:
        links: 1 while it has a name.
        opened: how many descriptors it has.
        lock: what has locked it.
        synced: how many changes of the disk there had been when it was last synced.
    """

    __slots__ = ("content", "links", "lock", "opened", "synced")

    def __init__(self) -> None:
        self.content = bytearray()
        self.links, self.opened, self.synced = 1, 0, 0
        self.lock: _Open | None = None


class _Folder:
    __slots__ = ("deleted", "entries")

    def __init__(self) -> None:
        self.entries: dict[str, _File | _Folder] = {}
        self.deleted = False


class _Open:
    """What a descriptor stands for."""

    __slots__ = ("flags", "node", "offset", "path")

    def __init__(self, node: _File | _Folder, path: str, flags: int) -> None:
        self.node, self.path, self.flags, self.offset = node, path, flags, 0


class _Change:
    """Something that was done lately: when, and how many changes there had been with it."""

    __slots__ = ("number", "time")
    number: int
    time: float


class _Written(_Change):
    """All of a file beyond a length was written in this change of the disk, or later."""

    __slots__ = ("file", "length")

    def __init__(self, file: _File, length: int) -> None:
        self.file, self.length = file, length


class _Unlinked(_Change):
    """A file or an empty folder lost its name."""

    __slots__ = ("folder", "name", "node")

    def __init__(self, folder: _Folder, name: str) -> None:
        self.folder, self.name, self.node = folder, name, folder.entries[name]


class _Renamed(_Change):
    """A file took a name; `before` had it."""

    __slots__ = ("before", "file", "folder", "name", "old_folder", "old_name")

    def __init__(self, old_folder: _Folder, old_name: str, folder: _Folder, name: str) -> None:
        self.old_folder, self.old_name, self.folder, self.name = old_folder, old_name, folder, name
        self.file, self.before = old_folder.entries[old_name], folder.entries.get(name)


class SimulatedDisk:
    """What the processes of a machine, or of all that mount the same disk, have in common.

    Args:
        now: the virtual time in seconds.
        capacity: bytes of content that all files have room for; None for no limit. Names take no room.

    Attributes:
        capacity: as given; may be set at any time.
        used: bytes.
    """

    def __init__(self, now: Callable[[], float] = lambda: 0.0, capacity: int | None = None) -> None:
        self.capacity, self.used = capacity, 0
        self._now = now
        self._root = _Folder()
        self._away: dict[str, _File | _Folder] = {}
        self._lately: deque[_Change] = deque()
        self._changes = self._synced = 0
        self._processes: dict[ProcessDisk, None] = {}

    def for_process(self, hook: Hook = lambda _operation, _path: None) -> "ProcessDisk":
        """The system calls of one process, for `LocalFiles`."""
        process = ProcessDisk(self, hook)
        self._processes[process] = None
        return process

    def take_away(self, name: str) -> None:
        """Unmount a folder of the root: where it was there is nothing. Who has a file open in it keeps that."""
        self._away[name] = self._root.entries.pop(name)

    def bring_back(self, name: str) -> None:
        """Mount it again, over whatever was made in its place."""
        self._root.entries[name] = self._away.pop(name)

    def lose_power(self, luck: random.Random, since: float) -> None:
        """Crash the machine: what was done lately may not be on the disk.

        Names are as they were at some moment since then, for a journal keeps their order; the sync of any file writes
        that journal. Of each file that was written and not synced, luck decides: it is whole, or what was written is
        cut off at some byte, is missing, or is zeros. All descriptors and locks are gone; end the processes before.

        Args:
            luck: decides.
            since: virtual time, no more than `REMEMBERED_SECONDS` ago.
        """
        for process in tuple(self._processes):
            process.close_all()
        lately = [change for change in self._lately if change.time >= since]
        self._lately.clear()
        names = [each for each in lately if isinstance(each, _Unlinked | _Renamed) and each.number > self._synced]
        undone = luck.randint(0, len(names)) if luck.random() < 0.5 else 0
        for name in names[::-1][:undone]:
            self._undo(name)
        lengths: dict[_File, int] = {}
        for change in lately:
            if isinstance(change, _Written) and change.number > change.file.synced:
                lengths[change.file] = min(change.length, lengths.get(change.file, change.length))
        for file, length in lengths.items():
            self._damage(file, length, luck)

    def _undo(self, change: _Unlinked | _Renamed) -> None:
        if isinstance(change, _Unlinked):
            self._put_back(change.folder, change.name, change.node)
            return
        del change.folder.entries[change.name]
        self._put_back(change.old_folder, change.old_name, change.file)
        if change.before is not None:
            self._put_back(change.folder, change.name, change.before)

    def _put_back(self, folder: _Folder, name: str, node: _File | _Folder) -> None:
        if name in folder.entries:
            self._drop(folder.entries[name])
        folder.entries[name] = node
        if isinstance(node, _Folder):
            node.deleted = False
        elif not node.links:
            node.links = 1
            self.used += len(node.content)

    def _drop(self, later: _File | _Folder) -> None:
        """Take away what came to be where something is put back."""
        if isinstance(later, _File):
            later.links = 0
            self._drop_unused(later)
            return
        for node in later.entries.values():
            self._drop(node)

    def _damage(self, file: _File, length: int, luck: random.Random) -> None:
        fate = luck.choice(FATES)
        lost = len(file.content) - length
        if lost <= 0 or not file.links:
            return
        if fate == "zeros":
            file.content[length:] = bytes(lost)
        elif fate in ("cut", "empty"):
            kept = luck.randrange(lost) if fate == "cut" else 0
            del file.content[length + kept :]
            self.used -= lost - kept

    def _remember(self, change: _Change) -> None:
        self._changes += 1
        change.number, change.time = self._changes, self._now()
        lately, oldest = self._lately, change.time - REMEMBERED_SECONDS
        while lately and lately[0].time < oldest:
            lately.popleft()
        lately.append(change)

    def _drop_unused(self, file: _File) -> None:
        """Free the room of a file that has neither a name nor a descriptor any more."""
        if not (file.links or file.opened):
            self.used -= len(file.content)


class ProcessDisk:
    """The system calls of one process; see `System`. Errors are those that Linux gives."""

    __slots__ = ("_descriptors", "_disk", "_hook", "_next", "_root")

    def __init__(self, disk: SimulatedDisk, hook: Hook) -> None:
        self._disk, self._hook, self._root = disk, hook, disk._root
        self._descriptors: dict[int, _Open] = {}
        self._next = 3

    @property
    def descriptors(self) -> int:
        """How many are open."""
        return len(self._descriptors)

    def close_all(self) -> None:
        """Do what the kernel does when the process has ended: close its descriptors, and with them its locks.

        What it still closes afterwards, on its way out, is passed over.
        """
        for fd in tuple(self._descriptors):
            self.close(fd)
        self._disk._processes.pop(self, None)

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:  # noqa: ARG002
        full = self._told("open", path, dir_fd)
        folder, name = self._place(path, dir_fd)
        node = folder.entries.get(name) if name else folder
        if node is None:
            if not flags & os.O_CREAT or folder.deleted:
                raise _error(errno.ENOENT, path)
            node = folder.entries[name] = _File()
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise _error(errno.EEXIST, path)
        if isinstance(node, _File):
            if flags & os.O_DIRECTORY:
                raise _error(errno.ENOTDIR, path)
            node.opened += 1
        elif flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise _error(errno.EISDIR, path)
        fd = self._next
        self._next += 1
        self._descriptors[fd] = _Open(node, full, flags)
        return fd

    def close(self, fd: int, /) -> None:
        opened = self._descriptors.pop(fd, None)
        if opened is None:
            if self in self._disk._processes:
                raise _error(errno.EBADF)
        elif isinstance(opened.node, _File):
            file = opened.node
            file.opened -= 1
            if file.lock is opened:
                file.lock = None
            self._disk._drop_unused(file)

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        opened = self._opened(fd)
        self._hook("pread", opened.path)
        file = opened.node
        if not isinstance(file, _File):
            raise _error(errno.EISDIR)
        if opened.flags & os.O_WRONLY:
            raise _error(errno.EBADF)
        return bytes(memoryview(file.content)[offset : offset + length])

    def write(self, fd: int, data: bytes | memoryview, /) -> int:
        opened = self._opened(fd)
        written = self._write("write", opened, data, None if opened.flags & os.O_APPEND else opened.offset)
        opened.offset += written
        return written

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int, /) -> int:
        return self._write("pwrite", self._opened(fd), data, offset)

    def _write(self, operation: str, opened: _Open, data: bytes | memoryview, offset: int | None) -> int:
        try:
            self._hook(operation, opened.path)
        except Torn as torn:
            written = self._put(opened, data[: torn.length], offset)
            if torn.error is not None:
                raise torn.error from None
            return written
        return self._put(opened, data, offset)

    def _put(self, opened: _Open, data: bytes | memoryview, offset: int | None) -> int:
        """Write as much as there is room for, at the end if no offset is given."""
        file, disk, length = opened.node, self._disk, len(data)
        if not (isinstance(file, _File) and opened.flags & (os.O_WRONLY | os.O_RDWR)):
            raise _error(errno.EBADF)
        content = file.content
        if offset is None:
            offset = len(content)
        grows = offset + length - len(content)
        if grows > 0:
            if disk.capacity is not None and grows > disk.capacity - disk.used:
                length -= grows - max(disk.capacity - disk.used, 0)
                if length <= 0:
                    raise _error(errno.ENOSPC)
                data, grows = data[:length], offset + length - len(content)
            disk.used += max(grows, 0)
        disk._remember(_Written(file, min(offset, len(content))))
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + length] = data
        return length

    def ftruncate(self, fd: int, length: int, /) -> None:
        opened = self._opened(fd)
        self._hook("ftruncate", opened.path)
        file = opened.node
        if not (isinstance(file, _File) and opened.flags & (os.O_WRONLY | os.O_RDWR)):
            raise _error(errno.EINVAL)
        before = len(file.content)
        self._disk._remember(_Written(file, min(length, before)))
        del file.content[length:]
        file.content.extend(bytes(length - len(file.content)))
        self._disk.used += length - before

    def fsync(self, fd: int, /) -> None:
        opened = self._opened(fd)
        self._hook("fsync", opened.path)
        self._disk._synced = self._disk._changes
        if isinstance(opened.node, _File):
            opened.node.synced = self._disk._changes

    def fstat(self, fd: int, /) -> os.stat_result:
        return _facts(self._opened(fd).node)

    def stat(
        self,
        path: str,
        *,
        dir_fd: int | None = None,
        follow_symlinks: bool = True,  # noqa: ARG002 (there are none)
    ) -> os.stat_result:
        self._told("stat", path, dir_fd)
        return _facts(self._node(path, dir_fd))

    def lexists(self, path: str, /) -> bool:
        try:
            self.stat(path)
        except OSError:
            return False
        return True

    def isdir(self, path: str, /) -> bool:
        try:
            return stat.S_ISDIR(self.stat(path).st_mode)
        except OSError:
            return False

    def listdir(self, fd: int, /) -> list[str]:
        opened = self._opened(fd)
        self._hook("listdir", opened.path)
        if isinstance(opened.node, _File):
            raise _error(errno.ENOTDIR)
        if opened.node.deleted:
            raise _error(errno.ENOENT)
        return list(opened.node.entries)

    def mkdir(self, path: str, *, dir_fd: int | None = None) -> None:
        self._told("mkdir", path, dir_fd)
        folder, name = self._place(path, dir_fd)
        if not name or name in folder.entries:
            raise _error(errno.EEXIST, path)
        if folder.deleted:
            raise _error(errno.ENOENT, path)
        folder.entries[name] = _Folder()

    def makedirs(self, name: str, *, exist_ok: bool = False) -> None:
        if self.isdir(name):
            if not exist_ok:
                raise _error(errno.EEXIST, name)
            return
        parts = name.rstrip("/").split("/")
        for end in range(2, len(parts)):
            if not self.lexists(above := "/".join(parts[:end])):
                self.mkdir(above)
        self.mkdir(name)

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        self._told("unlink", path, dir_fd)
        folder, name = self._place(path, dir_fd)
        file = folder.entries.get(name)
        if file is None:
            raise _error(errno.ENOENT, path)
        if not isinstance(file, _File):
            raise _error(errno.EISDIR, path)
        self._disk._remember(_Unlinked(folder, name))
        del folder.entries[name]
        file.links = 0
        self._disk._drop_unused(file)

    def replace(self, src: str, dst: str, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        self._told("replace", dst, dst_dir_fd)
        (source, old_name), (folder, name) = self._place(src, src_dir_fd), self._place(dst, dst_dir_fd)
        file, before = source.entries.get(old_name), folder.entries.get(name)
        if not isinstance(file, _File):
            raise _error(errno.ENOENT if file is None else errno.EINVAL, src)
        if folder.deleted:
            raise _error(errno.ENOENT, dst)
        if isinstance(before, _Folder):
            raise _error(errno.EISDIR, dst)
        if before is file:
            return
        self._disk._remember(_Renamed(source, old_name, folder, name))
        del source.entries[old_name]
        folder.entries[name] = file
        if before is not None:
            before.links = 0
            self._disk._drop_unused(before)

    def rmtree(self, path: str, *, dir_fd: int | None = None) -> None:
        """Delete one entry after the other, as `shutil` does: a process may end between two."""
        full = self._told("stat", path, dir_fd)
        folder = self._node(path, dir_fd)
        if isinstance(folder, _File):
            raise _error(errno.ENOTDIR, path)
        self._clear(folder, full)
        self.rmdir(path, dir_fd=dir_fd)

    def rmdir(self, path: str, *, dir_fd: int | None = None) -> None:
        self._told("rmdir", path, dir_fd)
        parent, name = self._place(path, dir_fd)
        folder = self._node(path, dir_fd)
        if isinstance(folder, _File):
            raise _error(errno.ENOTDIR, path)
        if folder.entries:
            raise _error(errno.ENOTEMPTY, path)
        self._disk._remember(_Unlinked(parent, name))
        del parent.entries[name]
        folder.deleted = True

    def _clear(self, folder: _Folder, full: str) -> None:
        fd, self._next = self._next, self._next + 1
        self._descriptors[fd] = _Open(folder, full, os.O_RDONLY)
        try:
            for name, node in list(folder.entries.items()):
                if isinstance(node, _File):
                    self.unlink(name, dir_fd=fd)
                else:
                    self.rmtree(name, dir_fd=fd)
        finally:
            self.close(fd)

    def flock(self, fd: int, operation: int, /) -> None:
        """Lock or unlock a file. A file that another process has locked is refused at once."""
        opened = self._opened(fd)
        self._hook("flock", opened.path)
        file = opened.node
        assert isinstance(file, _File)
        assert operation in (fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN)
        if operation == fcntl.LOCK_UN:
            file.lock = None if file.lock is opened else file.lock
        elif file.lock in (None, opened):
            file.lock = opened
        else:
            raise _error(errno.EAGAIN)

    def _opened(self, fd: int) -> _Open:
        try:
            return self._descriptors[fd]
        except KeyError:
            raise _error(errno.EBADF) from None

    def _told(self, operation: str, path: str, dir_fd: int | None) -> str:
        """Tell the hook of an operation; returns the whole path."""
        if dir_fd is not None:
            path = f"{self._opened(dir_fd).path}/{path}"
        self._hook(operation, path)
        return path

    def _place(self, path: str, dir_fd: int | None) -> tuple[_Folder, str]:
        """The folder that a path is an entry of, and its name there; "" for the root."""
        if dir_fd is not None:
            folder, name = self._opened(dir_fd).node, path
        else:
            folder = self._root
            *parts, name = path.rstrip("/").split("/")
            for part in parts:
                if part:
                    folder = self._entry(folder, part, path)
        if isinstance(folder, _File):
            raise _error(errno.ENOTDIR, path)
        return folder, name

    def _node(self, path: str, dir_fd: int | None) -> _File | _Folder:
        folder, name = self._place(path, dir_fd)
        return self._entry(folder, name, path) if name else folder

    @staticmethod
    def _entry(folder: _File | _Folder, name: str, path: str) -> _File | _Folder:
        if isinstance(folder, _File):
            raise _error(errno.ENOTDIR, path)
        try:
            return folder.entries[name]
        except KeyError:
            raise _error(errno.ENOENT, path) from None


def _error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number)) if path is None else OSError(number, os.strerror(number), path)


def _facts(node: _File | _Folder) -> os.stat_result:
    if isinstance(node, _File):
        return os.stat_result((stat.S_IFREG | 0o644, 0, 0, node.links, 0, 0, len(node.content), 0, 0, 0))
    return os.stat_result((stat.S_IFDIR | 0o755, 0, 0, 2, 0, 0, 0, 0, 0, 0))
