"""An object store in memory: the part of pyarrow's file systems that `ObjectFiles` uses, and what such stores do wrong.

An object is there whole once its stream is closed, and reading one shows its newest content. There is no rename and no
append. A listing may show an earlier state.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from pyarrow import fs

from noprop_dist.simulation.disk import REMEMBERED_SECONDS, Hook, Torn


class _Folder:
    """Stands for a folder among the entries of the one that it lies in."""


FOLDER: Final = _Folder()
Entry: TypeAlias = bytes | _Folder
"""The content of an object, or `FOLDER`."""


class SimulatedBucket:
    """What several processes have in common; each has a `ProcessBucket` of its own.

    Args:
        now: the virtual time in seconds.

    Attributes:
        stale_seconds: from how long ago listings are, at most `REMEMBERED_SECONDS`; may be set at any time.
    """

    def __init__(self, now: Callable[[], float] = lambda: 0.0) -> None:
        self.stale_seconds = 0.0
        self._now = now
        self._folders: dict[str, dict[str, Entry]] = {"": {}}
        self._lately: deque[tuple[float, str, str, Entry | None]] = deque()

    def for_process(self, hook: Hook = lambda _request, _path: None, *, fresh: bool = False) -> "ProcessBucket":
        """The file system of one process, for `ObjectFiles`; with `fresh`, its listings are never stale."""
        return ProcessBucket(self, hook, fresh)

    def get(self, path: str) -> Entry | None:
        """What is there; None for nothing."""
        folder, _, name = path.rpartition("/")
        return self._folders.get(folder, {}).get(name)

    def put(self, path: str, content: Entry) -> None:
        """Put an object there, or a folder; the folders above it come to be with it."""
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            self.put(folder, FOLDER)
        self._change(folder, name, content)
        if content is FOLDER:
            self._folders.setdefault(path, {})

    def remove(self, path: str) -> None:
        """Remove an object, or an empty folder, if it is there."""
        folder, _, name = path.rpartition("/")
        found = self.get(path)
        if found is FOLDER:
            del self._folders[path]
        if found is not None:
            self._change(folder, name, None)

    def object(self, path: str) -> bytes:
        """The content of an object.

        Raises:
            FileNotFoundError: there is none.
            OSError: there is a folder.
        """
        found = self.get(path)
        if isinstance(found, bytes):
            return found
        if found is None:
            raise _missing(path)
        raise OSError(f"Not a regular file: '{path}'")

    def content(self, folder: str) -> dict[str, Entry] | None:
        """What a folder holds now; None if there is none."""
        return self._folders.get(folder)

    def listed(self, folder: str, fresh: bool) -> dict[str, Entry]:
        """What a listing of a folder shows."""
        entries, seen = dict(self._folders.get(folder, {})), self._now() - (0.0 if fresh else self.stale_seconds)
        for time, where, name, before in reversed(self._lately):
            if time <= seen:
                break
            if where == folder:
                entries.pop(name, None)
                if before is not None:
                    entries[name] = before
        return entries

    def _change(self, folder: str, name: str, content: Entry | None) -> None:
        entries, lately, now = self._folders[folder], self._lately, self._now()
        while lately and lately[0][0] < now - REMEMBERED_SECONDS:
            lately.popleft()
        lately.append((now, folder, name, entries.pop(name, None)))
        if content is not None:
            entries[name] = content


class ProcessBucket:
    """pyarrow's file system of one process. Each request asks the hook first.

    Where that raises `Torn`, the request takes effect and the answer is lost: nothing is half written here.
    """

    def __init__(self, bucket: SimulatedBucket, hook: Hook, fresh: bool) -> None:
        self._fresh = fresh
        self._bucket, self._hook = bucket, hook

    def open_input_file(self, path: str) -> "_Reading":
        return _Reading(self, path, len(self.get("head", path)))

    def open_output_stream(self, path: str) -> "_Writing":
        return _Writing(self, path)

    def get_file_info(self, what: str | fs.FileSelector) -> Any:
        if isinstance(what, str):
            self._ask("head", what)
            return _info(what, self._bucket.get(what))
        self._ask("list", what.base_dir)
        return [
            _info(f"{what.base_dir}/{name}", each)
            for name, each in self._bucket.listed(what.base_dir, self._fresh).items()
        ]

    def delete_file(self, path: str) -> None:
        self.get("head", path)
        self._request("delete", path, self._bucket.remove)

    def delete_dir(self, path: str) -> None:
        """Delete one object after the other, as they are listed."""
        if self._bucket.get(path) is not FOLDER:
            raise _missing(path)
        self._ask("list", path)
        for name in list(self._bucket.content(path) or ()):
            inner = f"{path}/{name}"
            if self._bucket.get(inner) is FOLDER:
                self.delete_dir(inner)
            else:
                self._request("delete", inner, self._bucket.remove)
        if not self._bucket.content(path):
            self._request("delete", path, self._bucket.remove)

    def put(self, path: str, content: bytes) -> None:
        self._request("put", path, self._bucket.put, content)

    def get(self, request: str, path: str) -> bytes:
        self._ask(request, path)
        return self._bucket.object(path)

    def _ask(self, request: str, path: str) -> None:
        self._request(request, path, lambda _: None)

    def _request(self, request: str, path: str, do: Callable[..., None], *more: Entry) -> None:
        try:
            self._hook(request, path)
        except Torn as torn:
            do(path, *more)
            if torn.error is not None:
                raise torn.error from None
            return
        do(path, *more)


class _Reading:
    """An object that is open; its length is that of when it was opened."""

    def __init__(self, files: ProcessBucket, path: str, length: int) -> None:
        self._files, self._path, self._length, self._offset = files, path, length, 0

    def __enter__(self) -> "_Reading":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def seek(self, offset: int) -> None:
        if offset > self._length:
            raise OSError("Seek out of bounds")
        self._offset = offset

    def read(self) -> bytes:
        return self._files.get("get", self._path)[self._offset : self._length]


class _Writing:
    def __init__(self, files: ProcessBucket, path: str) -> None:
        self._files, self._path, self._parts = files, path, [b""]

    def __enter__(self) -> "_Writing":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.put(self._path, b"".join(self._parts))

    def write(self, content: bytes) -> None:
        self._parts.append(content)


def _info(path: str, entry: Entry | None) -> Any:
    if isinstance(entry, bytes):
        return fs.FileInfo(path, fs.FileType.File, size=len(entry))
    return fs.FileInfo(path, fs.FileType.NotFound if entry is None else fs.FileType.Directory)


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(2, f"Path does not exist '{path}'")
