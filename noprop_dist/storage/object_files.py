"""Files below one URI that pyarrow knows: s3://, gs://, and others."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

from pyarrow import ArrowException, fs

from noprop_dist.storage.local_files import checked_parts

OBJECT_STORE_ERRORS = (OSError, ArrowException, NotImplementedError)
"""What pyarrow raises. Some of it is no OSError, and all of it may quote a URI with its secrets."""
S3_ATTEMPTS = 3
"""Of one request, 3 s each to a server that says nothing. pyarrow's default is ten: 100 s without a word."""
GCS_RETRY_SECONDS = 10
"""pyarrow's default is a quarter of an hour."""


def open_uri(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path in it.

    Raises:
        OBJECT_STORE_ERRORS: it cannot be opened.
    """
    files, path = fs.FileSystem.from_uri(uri)
    if isinstance(files, fs.S3FileSystem):
        files = _with_options(files, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS))
    elif isinstance(files, fs.GcsFileSystem):
        files = _with_options(files, retry_time_limit=timedelta(seconds=GCS_RETRY_SECONDS))
    return files, path


def _with_options(files: Any, **options: Any) -> Any:
    """The same file system with options that no URI can give; pickle's protocol tells the ones that it has."""
    (own,) = files.__reduce__()[1]
    if "allow_delayed_open" in own:  # pyarrow 21 on: a small file takes one request instead of three
        options["allow_delayed_open"] = True
    return type(files)(**{**own, **options})


class ObjectFiles:
    """Files by name under a root. Every method raises `OBJECT_STORE_ERRORS`.

    Object stores have no folders, and no file of them is ever half there: it comes to be when its stream is closed.
    So none is made for a file, and a file is written in its place.

    Args:
        files: pyarrow's file system.
        root: path in it.
    """

    def __init__(self, files: Any, root: str) -> None:
        self._files = files
        self._root = root

    def read(self, name: str, offset: int = 0) -> bytes:
        with self._files.open_input_file(self._at(name)) as file:
            file.seek(offset)
            content: bytes = file.read()
        return content

    def size(self, name: str) -> int:
        size: int | None = self._files.get_file_info(self._at(name)).size
        if size is None:
            raise FileNotFoundError(self._at(name))
        return size

    def exists(self, name: str) -> bool:
        found: bool = self._files.get_file_info(self._at(name)).type != fs.FileType.NotFound
        return found

    def names(self, folder: str) -> list[str]:
        selector = fs.FileSelector(self._at(folder), allow_not_found=True)
        return sorted(info.base_name for info in self._files.get_file_info(selector))

    def write(self, name: str, content: bytes) -> None:
        with self._files.open_output_stream(self._at(name)) as stream:
            stream.write(content)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.delete_file(self._at(name))

    def delete_folder(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.delete_dir(self._at(name))

    def _at(self, name: str) -> str:
        return "/".join([self._root, *checked_parts(name)])
