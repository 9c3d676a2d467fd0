"""What may be wrong with a file: values of another kind, bytes that are not what they were, no file at all."""

import json
import os
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

CONTROL = "\x1b[31m\x07\x00\x9b\u202e\u200b\ud800"
NAMES = st.sampled_from(
    [
        *(
            "",
            ".",
            "..",
            "/",
            "../beside/kept.txt",
            "../../beside/x",
            "a/b",
            "a\0b",
            "a\nb",
            "\x1b[31mred",
            "$x^{",
            "[bold]",
        ),
        *(
            "block-01",
            "block-1",
            "block-99",
            "classifier",
            "embedding",
            "network",
            "x" * 300,
            "{0}",
            "%s",
            "s3://a:b@c/d",
        ),
    ]
)
TEXTS = NAMES | st.text(max_size=8) | st.text(st.sampled_from(CONTROL + "ab"), max_size=4)
NUMBERS = st.one_of(
    st.sampled_from(
        [0, -1, 1, 2, 3, 4, 7, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(10**20)]
    ),
    st.sampled_from([0.0, -0.0, 1.5, 1e-320, 1e308, float("nan"), float("inf"), -float("inf")]),
    st.integers(-5, 20),
    st.floats(),
)
PLAIN = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | NUMBERS.map(str), inner, max_size=3),
    max_leaves=5,
)
SEEDS = st.integers(0, 2**32 - 1)
"""Of choices that depend on what is there: which key, which byte."""


class Long(bytes):
    """Bytes that are shown by their beginning."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes that begin with {bytes(self[:8])!r}>"


NOISE = st.one_of(
    st.binary(max_size=64),
    st.sampled_from(
        [
            b"",
            b"{}",
            b"[]",
            b"null",
            b"1",
            b'"a"',
            b"\xff\xfe",
            b"\xef\xbb\xbf{}",
            Long(b"{" * 2000),
            Long(b"[" * 100_000),
            Long(b'{"a":' * 50_000),
            Long(b"9" * 5000),
            Long(4096),
            b"1e999999",
            b"-",
            b"NaN",
        ]
    ),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in nested plain values."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*at, key))


def change(value: Any, choose: random.Random, new: Any, how: str) -> Any:
    """Plain values of which one is replaced, taken out, doubled, or joined by another one."""
    value = json.loads(json.dumps(value))
    everywhere = list(places(value))
    if not everywhere:
        return new
    *above, last = choose.choice(everywhere)
    parent = value
    for key in above:
        parent = parent[key]
    if how == "replace":
        parent[last] = new
    elif how == "remove":
        del parent[last]
    elif how == "double" and isinstance(parent, list):
        parent.append(parent[last])
    elif how == "swap":
        *other_above, other = choose.choice(everywhere)
        source = value
        for key in other_above:
            source = source[key]
        parent[last] = json.loads(json.dumps(source[other]))
    elif isinstance(parent, dict):
        parent[str(new) if isinstance(new, str | int) else "added"] = new
    return value


HOWS = st.sampled_from(["replace", "replace", "remove", "double", "swap", "add"])


def damaged_bytes(content: bytes, choose: random.Random, how: str, noise: bytes) -> bytes:
    """Content that lost its end, or has other bytes at some place."""
    if how == "all":
        return noise
    if not content:
        return noise
    at = choose.randrange(len(content))
    if how == "cut":
        return content[:at]
    if how == "flip":
        changed = bytearray(content)
        for _ in range(choose.choice([1, 1, 2, 16])):
            changed[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        return bytes(changed)
    if how == "head":
        changed = bytearray(content)
        for _ in range(choose.choice([1, 1, 2, 4])):
            changed[choose.randrange(min(len(content), 128))] = choose.choice(
                [0, 1, 0x7F, 0x80, 0xFF, choose.randrange(256)]
            )
        return bytes(changed)
    if how == "insert":
        return content[:at] + noise + content[at:]
    if how == "append":
        return content + noise
    if how == "zeros":
        return content[:at] + bytes(len(content) - at)
    return content[:at] + content[choose.randrange(len(content)) :]


BYTE_HOWS = st.sampled_from(["all", "cut", "flip", "head", "insert", "append", "zeros", "join"])


def damaged_lines(content: bytes, choose: random.Random, how: str, new: Any) -> bytes:
    """Lines of JSON of which one is doubled, swapped, taken out, cut, or has another value."""
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    at, other = choose.randrange(len(lines)), choose.randrange(len(lines))
    if how == "double":
        lines.insert(other, lines[at])
    elif how == "swap":
        lines[at], lines[other] = lines[other], lines[at]
    elif how == "remove":
        del lines[at]
    elif how == "add":
        lines.insert(at, json.dumps(new).encode() + b"\n")
    else:
        try:
            line = json.loads(lines[at])
        except (ValueError, RecursionError):
            return content
        lines[at] = json.dumps(change(line, choose, new, "replace")).encode() + b"\n"
    return b"".join(lines)


def _socket(file: Path, beside: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(file))


def _hard_link(file: Path, beside: Path) -> None:
    os.link(beside / "kept.txt", file)


STAND_INS: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda file, _: None,
    "empty file": lambda file, _: file.touch(),
    "empty folder": lambda file, _: file.mkdir(),
    "folder": lambda file, _: (file / "a" / "b").mkdir(parents=True),
    "pipe": lambda file, _: os.mkfifo(file),
    "link to what is beside": lambda file, beside: file.symlink_to(beside / "kept.txt"),
    "link to a folder beside": lambda file, beside: file.symlink_to(beside),
    "link to what will be beside": lambda file, beside: file.symlink_to(beside / "new"),
    "link to itself": lambda file, _: file.symlink_to(file),
    "link to a device": lambda file, _: file.symlink_to("/dev/zero"),
    "link to nothing": lambda file, _: file.symlink_to("nothing/at/all"),
    "socket": lambda file, _: None,
    "another name of what is beside": _hard_link,
}


def stand_in(file: Path, kind: str, beside: Path) -> None:
    """Put something else where a file or folder was."""
    import shutil

    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)
    STAND_INS[kind](file, beside)


def files_below(folder: Path) -> Sequence[Path]:
    """All regular files, in one order on every machine."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
