"""Text from outside (names of files and classes, URIs, others' errors) as it may be shown."""

import re
import unicodedata
from collections.abc import Iterator

URI = re.compile(
    r"""(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*:/+)  # one slash where a URI was taken for a path
        (?P<user>[^/?#\s'"`@]*@ | [^/?#\s'"`@:]+:[^\s'"`]*@  # a secret key may hold slashes
            | (?<=://)[^/?#\s'"`@:[]+:(?=[^/?#\s'"`]*[^/?#\s'"`\d:.,;)])[^\s'"`]*  # the @ was left out: it is no port
        )?
        (?P<place>[^?#\s'"`]*)
        (?P<query>[?#][^\s'"`]*?(?=[.,:;)]*(?:[\s'"`]|$)))?  # what ends a sentence is none of it""",
    re.VERBOSE,
)
SAFE_OPTION = re.compile(
    r"(region|scheme|endpoint_override|anonymous|allow_bucket_creation|allow_bucket_deletion)=[\w.:/%-]+", re.ASCII
)
"""Options of a URI without which it names nothing, and which hold no secret."""


def printable(text: str, keep: str = "") -> str:
    r"""Text in which whatever a terminal would obey, or cannot encode, is written out: `\x1b` for Escape.

    Args:
        text: from anywhere.
        keep: control characters that are meant, such as a newline.
    """
    return "".join(each if _is_shown(each) or each in keep else _written_out(each) for each in text)


def without_secrets(text: str) -> str:
    """Text whose URIs have lost user, password and every option that may be a secret."""
    return URI.sub(_masked, text) if ":/" in text else text


def has_secrets(uri: str) -> bool:
    """Return True if a URI carries what `without_secrets` takes away."""
    return without_secrets(uri) != uri


def _masked(uri: re.Match[str]) -> str:
    kept = "&".join(_safe_options(uri["query"] or ""))
    return f"{uri['scheme']}{uri['place']}{'?' if kept else ''}{kept}"


def _safe_options(query: str) -> Iterator[str]:
    return (option for option in re.split("[?&#]", query) if SAFE_OPTION.fullmatch(option))


def _is_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # spaces of all alphabets


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
