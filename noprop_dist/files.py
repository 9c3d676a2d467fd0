"""Paths that a user gives, files that are opened without waiting for anyone, and JSON that anyone may have written."""

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from noprop_dist.errors import UserError


def local_path(text: str | Path) -> Path:
    """A path with `~` expanded.

    Raises:
        UserError: there is no such home, or it is a URI.
    """
    if "://" in str(text):
        raise UserError(f"{text}: is a URI; only run directories may be URIs, this is a path of a file or folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: the home that ~ stands for cannot be found; write the path out") from error


def open_file(file: Path, *, allow_pipe: bool = False) -> BinaryIO:
    """Open a regular file for reading. A pipe or a device, which can keep a reader waiting forever, is refused.

    Args:
        file: to open.
        allow_pipe: take a pipe that somebody writes to, such as `<(command)`; one without a writer reads as empty.

    Raises:
        OSError: there is no such file, or it is none.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(f"is no file name: {error}") from error
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or (allow_pipe and stat.S_ISFIFO(mode))):
        os.close(descriptor)
        raise OSError(f"is a {'folder' if stat.S_ISDIR(mode) else 'pipe or device'}, no file")
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")


def parse_json(content: bytes | str) -> Any:
    """The plain values of a JSON document.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def state_folder() -> Path | None:
    """Where this user's programs keep their state (XDG), for this one; None without a home. It need not exist."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        state = state if state.is_absolute() else Path("~/.local/state").expanduser()
    except RuntimeError:
        return None
    return state / "noprop-dist" if state.is_absolute() else None


def have_a_home() -> None:
    """Let this process and those that it starts have a home, for Ray's libraries fail on import without one.

    A user who has none (`docker run --user 12345`) gets what Debian gives to such users: a folder that is not there.
    """
    if os.path.expanduser("~") == "~":  # noqa: PTH111 (pathlib raises where there is none)
        os.environ["HOME"] = "/nonexistent"
