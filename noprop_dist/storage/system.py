"""The system calls below the files of a local folder. The simulation puts others in their place."""

import fcntl
import os
import shutil
from typing import Protocol


class System(Protocol):
    """Calls of `os`, and three of other modules, under their own names and with their errors."""

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int: ...

    def close(self, fd: int, /) -> None: ...

    def pread(self, fd: int, length: int, offset: int, /) -> bytes: ...

    def write(self, fd: int, data: memoryview, /) -> int: ...

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int: ...

    def ftruncate(self, fd: int, length: int, /) -> None: ...

    def fsync(self, fd: int, /) -> None: ...

    def fstat(self, fd: int, /) -> os.stat_result: ...

    def stat(self, path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result: ...

    def listdir(self, fd: int, /) -> list[str]: ...

    def mkdir(self, path: str, *, dir_fd: int | None = None) -> None: ...

    def makedirs(self, name: str, *, exist_ok: bool = False) -> None: ...

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None: ...

    def replace(self, src: str, dst: str, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None: ...

    def lexists(self, path: str, /) -> bool: ...

    def isdir(self, path: str, /) -> bool: ...

    def rmdir(self, path: str) -> None: ...

    def rmtree(self, path: str, *, dir_fd: int | None = None) -> None: ...

    def flock(self, fd: int, operation: int, /) -> None: ...


class ThisSystem:
    """The real ones."""

    open, close = staticmethod(os.open), staticmethod(os.close)
    pread, write, pwrite = staticmethod(os.pread), staticmethod(os.write), staticmethod(os.pwrite)
    ftruncate, fsync = staticmethod(os.ftruncate), staticmethod(os.fsync)
    fstat, stat = staticmethod(os.fstat), staticmethod(os.stat)
    mkdir, makedirs = staticmethod(os.mkdir), staticmethod(os.makedirs)
    unlink, replace = staticmethod(os.unlink), staticmethod(os.replace)
    lexists, isdir = staticmethod(os.path.lexists), staticmethod(os.path.isdir)
    rmdir, rmtree = staticmethod(os.rmdir), staticmethod(shutil.rmtree)
    flock = staticmethod(fcntl.flock)

    def listdir(self, fd: int, /) -> list[str]:
        return os.listdir(fd)


THIS_SYSTEM: System = ThisSystem()
