"""Paths that a user gives, files that are opened without waiting for anyone, and JSON that anyone may have written."""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from noprop_dist.errors import UserError

SENT_FOLDER = "/dev/null"
"""Before a folder on `sys.path` that is searched last, and for networks alone. Under a file there is no folder, so
that nothing else is ever found there. So does a driver send its working directory to the processes of a cluster."""


def local_path(text: str | Path) -> Path:
    """A path with `~` expanded.

    Raises:
        UserError: there is no such home, it is a URI, or empty: pathlib would take it for the working directory.
    """
    if text == "":
        raise UserError("a path of a file or folder is empty; the working directory is .")
    if "://" in str(text):
        raise UserError(f"{text}: is a URI; only run directories may be URIs, this is a path of a file or folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: the home that ~ stands for cannot be found; write the path out") from error


def open_file(file: Path, *, allow_pipe: bool = False) -> BufferedReader:
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


CHECKSUM = "sha256_of_this"
"""Key of the SHA-256 of an object of a JSON document, without this key: of its JSON with sorted keys."""


class JsonObject(dict[str, Any]):
    """An object of a JSON document, of which nothing is certain: what it lacks is a ValueError that says so."""

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{key} is missing")


Kind = TypeVar("Kind")
Form = TypeVar("Form", JsonObject, list[Any])
FORMS: dict[type, str] = {
    **{JsonObject: "an object", list: "a list", str: "a text"},
    **{int: "a number", float: "a number", bool: "a truth value", type(None): "null"},
}


def parse_json(content: bytes | str, form: type[Form]) -> Form:
    """A JSON document. Every object in it is a `JsonObject`.

    Args:
        content: of a file that anyone may have written.
        form: `JsonObject` or `list`, which the document must be.

    Raises:
        ValueError: it is none, of another form, or nested too deeply; says so in words of JSON.
    """
    try:
        value = json.loads(content, object_hook=JsonObject)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        where = f"it breaks off or is wrong in line {error.lineno}, column {error.colno}"
        raise ValueError(f"it is no JSON: {where if error.doc.strip() else 'it is empty'}") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is no JSON: it is no text") from error
    return json_form(value, form, "it")


def json_form(value: Any, form: type[Form], what: str) -> Form:
    """A value of a JSON document, if it has this form; `what` names it.

    Raises:
        ValueError: it has another one.
    """
    if not isinstance(value, form):
        raise ValueError(f"{what} is {FORMS[type(value)]}, not {FORMS[form]}")
    return value


def with_checksum(values: Mapping[str, Any]) -> JsonObject:
    """An object of a JSON document, with the checksum of all else in it; see `check_checksum`."""
    plain = parse_json(json.dumps(values), JsonObject)
    return JsonObject({**plain, CHECKSUM: _checksum(plain)})


def check_checksum(values: JsonObject) -> None:
    """Check an object against the checksum that `with_checksum` put in it. Older files have none.

    Raises:
        ValueError: it is another object than was written.
    """
    if values.get(CHECKSUM, checksum := _checksum(values)) != checksum:
        raise ValueError("it is damaged, or was edited (its own checksum does not match)")


def _checksum(values: JsonObject) -> str:
    rest = {key: value for key, value in values.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def from_json(kind: type[Kind], values: object) -> Kind:
    """A dataclass whose fields a JSON document has.

    Raises:
        ValueError: a field is missing, or of another type; names the first.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        what = first["msg"].replace("dictionary", "object")
        where = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"{where}: {what[:1].lower()}{what[1:]}") from error


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
