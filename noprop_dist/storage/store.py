"""Small files under one root, written atomically: a local folder or any URI that pyarrow knows (s3://, gs://, …)."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyarrow import ArrowInvalid, fs

from noprop_dist.errors import UserError


class Store:
    """Files by name under a root; folders are made when they are needed.

    Args:
        root: a local path or a URI.

    Raises:
        UserError: pyarrow knows no such file system.
    """

    def __init__(self, root: str) -> None:
        self.root = root if "://" in root else str(Path(root).expanduser().resolve())
        try:
            opened = fs.FileSystem.from_uri(root) if "://" in root else (fs.LocalFileSystem(), self.root)
        except (ArrowInvalid, OSError) as error:
            raise UserError(f"{root}: is no path or URI that can be opened: {error}") from error

        self._files: Any = opened[0]
        self._path: str = opened[1]
        self._before_writing: Callable[[], None] = lambda: None

    def __str__(self) -> str:
        return self.root

    def before_writing(self, check: Callable[[], None]) -> None:
        """Have this called before every write from here on; an OSError that it raises is the write's."""
        self._before_writing = check

    def read(self, name: str, offset: int = 0) -> bytes:
        """The whole file, or what follows the first `offset` bytes.

        Raises:
            OSError: there is no such file, or it cannot be read.
        """
        with self._files.open_input_file(self._at(name)) as file:
            file.seek(offset)
            content: bytes = file.read()
        return content

    def size(self, name: str) -> int:
        """Bytes of a file.

        Raises:
            OSError: there is no such file.
        """
        size: int | None = self._files.get_file_info(self._at(name)).size
        if size is None:
            raise FileNotFoundError(self._at(name))
        return size

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file; it is there whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        self._make_folder(name)
        partial = f"{self._at(name)}.partial"
        with self._files.open_output_stream(partial) as stream:
            stream.write(content)
        self._files.move(partial, self._at(name))

    def append(self, name: str, content: bytes) -> None:
        """Append to a file, all or nothing. Object stores cannot append: there the whole file is written again.

        Raises:
            OSError: it cannot be written; the file is as it was.
        """
        self._make_folder(name)
        try:
            stream = self._files.open_append_stream(self._at(name))
        except (NotImplementedError, ArrowInvalid):
            before = self.read(name) if self.exists(name) else b""
            self.write(name, before + content)
            return
        size = self._files.get_file_info(self._at(name)).size
        try:
            with stream:
                stream.write(content)
        except OSError:
            if self.is_local:  # a full disk takes the first part of what it is given
                os.truncate(self._at(name), size)
            raise

    def exists(self, name: str) -> bool:
        """Return True if there is such a file or folder."""
        found: bool = self._files.get_file_info(self._at(name)).type != fs.FileType.NotFound
        return found

    def names(self, folder: str) -> list[str]:
        """Names within a folder, sorted; none if there is no such folder."""
        selector = fs.FileSelector(self._at(folder), allow_not_found=True)
        return sorted(info.base_name for info in self._files.get_file_info(selector))

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        if self.exists(name):
            self._files.delete_file(self._at(name))

    def delete_folder(self, folder: str) -> None:
        """Delete a folder and all in it, if it is there."""
        if self.exists(folder):
            self._files.delete_dir(self._at(folder))

    @property
    def is_local(self) -> bool:
        """Return True if the root is a folder of this machine's file systems."""
        return isinstance(self._files, fs.LocalFileSystem)

    def local_path(self, name: str) -> Path:
        """Where a file of a local root lies; its folder is made."""
        self._make_folder(name)
        return Path(self._at(name))

    def _make_folder(self, name: str) -> None:
        self._before_writing()
        self._files.create_dir(self._at(name).rpartition("/")[0], recursive=True)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"
