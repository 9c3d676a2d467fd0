"""Says in one sentence for each setting why it is refused, from what pydantic says of a section and its unions."""

import difflib
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

Section = type[BaseModel]
_UNKNOWN = ("extra_forbidden", "invalid_key")
_SAID_IN_FULL = (*_UNKNOWN, "missing", "value_error", "boolean")


def sentences(root: Section, details: Sequence[Any], nothing: str = "null") -> Iterator[str]:
    """One sentence for each setting that is refused; what a union says of each of its members is put together.

    Args:
        root: the section that was validated.
        details: of pydantic.
        nothing: how one writes that there is no value.
    """
    by_key: dict[str, list[Any]] = {}
    for detail in details:
        by_key.setdefault(_key(root, detail), []).append(detail)
    for key, of_key in by_key.items():
        first, reasons = of_key[0], list(dict.fromkeys(_reason(root, detail) for detail in of_key))
        if NoneType in types_at(root, first["loc"]):
            reasons.append(nothing)
        refused = "" if first["type"] in _SAID_IN_FULL else f"{shortened(first['input'])} is not allowed: "
        yield f"{key}{': ' if key else ''}{refused}{', or '.join(reasons)}"


def _reason(root: Section, detail: Any) -> str:
    location = detail["loc"]
    match detail["type"]:
        case "extra_forbidden" | "invalid_key":
            return f"there is no such setting{_suggestion(root, location)}"
        case "missing":
            return "must be given"
        case "value_error" | "boolean":
            return str(detail["msg"]).removeprefix("Value error, ")
        case "union_tag_not_found" | "union_tag_invalid":
            return _kind_needed(root, detail)
        case "model_type" | "model_attributes_type":
            return f"this is a section{_section_needed(root, detail)}"
    return str(detail["msg"][:1].lower() + detail["msg"][1:])


def _kind_needed(root: Section, detail: Any) -> str:
    kinds = _kinds_at(root, detail["loc"])
    if detail["type"] == "union_tag_invalid":
        return f"kind must be one of {', '.join(kinds)}{close_to(str(detail['ctx']['tag']), kinds)}"
    glued = any(":" in str(key) for key in detail["input"])
    return f"kind must be given, one of {', '.join(kinds)}{'; in YAML a space follows the colon' if glued else ''}"


def _section_needed(root: Section, detail: Any) -> str:
    """What is to be written where a plain value stands in place of a section."""
    kinds, names = _kinds_at(root, detail["loc"]), _settings_at(root, detail["loc"])
    key, value = _key(root, detail), detail["input"]
    if not isinstance(value, str) or not {"kind", "name"} & {*names}:
        return f", with the settings {', '.join(names)}"
    if not kinds:
        return f"; write {key}.name={shortened(value)}"
    if value in kinds:
        return f"; write {key}.kind={value}"
    return f", and its kind one of {', '.join(kinds)}{close_to(value, kinds)}"


def close_to(name: str, names: Sequence[str]) -> str:
    """A question whether another name was meant; nothing where none is close."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def shortened(value: Any) -> str:
    """What a caller gave, in one short line: of an array or a module, its type."""
    text = repr(value)
    if "\n" in text:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]} …"


def _key(root: Section, detail: Any) -> str:
    """The dotted key of an error, without the members of unions that pydantic puts into its location."""
    location = detail["loc"]
    known = [
        part
        for end, part in enumerate(location)
        if types_at(root, location[: end + 1]) and not _chosen(part, types_at(root, location[:end]))
    ]
    if detail["type"] == "boolean":  # the section tells it
        known.append(detail["ctx"]["setting"])
    return ".".join(map(str, [*known, *(location[-1:] if detail["type"] in _UNKNOWN else ())]))


def _suggestion(root: Section, location: tuple[Any, ...]) -> str:
    names = _settings_at(root, location[:-1])
    return close_to(str(location[-1]), names) or f"; allowed are {', '.join(names)}"


def _settings_at(root: Section, location: Sequence[Any]) -> list[str]:
    """The names of the settings of the section that stands at a location, of every kind that it may have."""
    sections = [each for each in types_at(root, location) if _is_section(each)]
    return list(dict.fromkeys(name for section in sections for name in section.model_fields))


def _kinds_at(root: Section, location: Sequence[Any]) -> list[str]:
    sections = [each for each in types_at(root, location) if _is_section(each) and "kind" in each.model_fields]
    return [str(kind) for section in sections for kind in get_args(section.model_fields["kind"].annotation)]


def types_at(root: Section, location: Sequence[Any]) -> list[Any]:
    """The types that the schema allows at a location; none if it has no such setting."""
    types: list[Any] = [root]
    for part in location:
        # Pydantic puts both into an error's location, though they are no keys.
        if chosen := _chosen(part, types):
            types = chosen
            continue
        fields = [
            each.model_fields[part].annotation for each in types if _is_section(each) and part in each.model_fields
        ]
        elements = [get_args(each)[get_origin(each) is dict] for each in types if get_origin(each) in (dict, tuple)]
        types = [member for annotation in (*fields, *elements) for member in _members(annotation)]
    return types


def _chosen(part: Any, types: Sequence[Any]) -> list[Section]:
    """The sections that a part of a location chooses, where several types may stand in one place."""
    return _of_kind(part, types) or _named(part, types)


def _of_kind(part: Any, types: Sequence[Any]) -> list[Section]:
    """The sections that `kind: part` chooses, where several may stand in one place."""
    sections = [each for each in types if _is_section(each) and "kind" in each.model_fields]
    return [each for each in sections if get_args(each.model_fields["kind"].annotation) == (part,)]


def _named(part: Any, types: Sequence[Any]) -> list[Section]:
    """The sections of a union that a part of a location names, as `function-after[check(), Section]` does."""
    return [each for each in types if _is_section(each) and str(part).endswith(f", {each.__name__}]")]


def _members(annotation: Any) -> list[Any]:
    """The types of a union, without what `Annotated` says of them."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for each in get_args(annotation) for member in _members(each)]
    return [annotation]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
