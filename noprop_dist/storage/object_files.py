"""Files below one URI that pyarrow knows: s3://, gs://, and others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyarrow import ArrowException, ArrowInvalid, fs

from noprop_dist.printable import without_secrets
from noprop_dist.storage.local_files import checked_parts


class ObjectFiles:
    """Files by name under a root. Every method raises OSError; no secret of a URI is left in its text.

    Args:
        files: pyarrow's file system.
        root: path in it.
    """

    def __init__(self, files: Any, root: str) -> None:
        self._files = files
        self._root = root

    def read(self, name: str, offset: int = 0) -> bytes:
        with _cleaned(), self._files.open_input_file(self._at(name)) as file:
            file.seek(offset)
            content: bytes = file.read()
        return content

    def size(self, name: str) -> int:
        with _cleaned():
            size: int | None = self._files.get_file_info(self._at(name)).size
        if size is None:
            raise FileNotFoundError(self._at(name))
        return size

    def exists(self, name: str) -> bool:
        with _cleaned():
            found: bool = self._files.get_file_info(self._at(name)).type != fs.FileType.NotFound
        return found

    def names(self, folder: str) -> list[str]:
        selector = fs.FileSelector(self._at(folder), allow_not_found=True)
        with _cleaned():
            return sorted(info.base_name for info in self._files.get_file_info(selector))

    def write(self, name: str, content: bytes) -> None:
        self.make_folder_of(name)
        partial = f"{self._at(name)}.partial"
        with _cleaned():
            with self._files.open_output_stream(partial) as stream:
                stream.write(content)
            self._files.move(partial, self._at(name))

    def append(self, name: str, content: bytes) -> None:
        """Append; where that is not possible, the file is read and written again."""
        self.make_folder_of(name)
        try:
            with _cleaned():
                stream = self._files.open_append_stream(self._at(name))
        except (NotImplementedError, ArrowInvalid):
            before = self.read(name) if self.exists(name) else b""
            self.write(name, before + content)
            return
        with _cleaned(), stream:
            stream.write(content)

    def delete(self, name: str) -> None:
        if self.exists(name):
            with _cleaned():
                self._files.delete_file(self._at(name))

    def delete_folder(self, name: str) -> None:
        if self.exists(name):
            with _cleaned():
                self._files.delete_dir(self._at(name))

    def make_folder_of(self, name: str) -> None:
        with _cleaned():
            self._files.create_dir(self._at(name).rpartition("/")[0], recursive=True)

    def _at(self, name: str) -> str:
        return "/".join([self._root, *checked_parts(name)])


@contextmanager
def _cleaned() -> Iterator[None]:
    """Take the secrets of URIs out of pyarrow's errors."""
    try:
        yield
    except (OSError, ArrowException) as error:
        raise type(error)(without_secrets(str(error))) from None
