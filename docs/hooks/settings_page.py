"""The reference of the settings, from `noprop_dist/config/schema.py` and its sections."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from noprop_dist.config.layers import PRESETS, preset_layer
from noprop_dist.config.schema import RunConfig
from noprop_dist.config.sections.base import Mark

EFFECT = {
    Mark.BITS: "yes",
    Mark.BASELINE_BITS: "the baseline's",
    Mark.BLOCKS: "no, but which blocks there are",
    Mark.CHAIN: "no, but what is measured",
    Mark.NOTHING: "no",
}
COLUMNS = ("setting", "type and bounds", "default", "changes bits", "meaning")
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
POWERS = {2**31: "2³¹", 2**63: "2⁶³", 10**9: "10⁹"}
TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true`, `false`", "null": "`null`"}
Section = type[BaseModel]
Row = Sequence[str]


def settings() -> str:
    """A table for each section, in the order of the schema."""
    return "\n".join(["## Of the whole run", "", *_table("", RunConfig), "", *_sections_within("", RunConfig, "##")])


def presets() -> str:
    """What each preset sets, of all that it may."""
    layers = [dict(_flat(preset_layer(preset))) for preset in PRESETS]
    keys = dict.fromkeys(key for layer in layers for key in layer)
    rows = ([f"[`{key}`](#{key})", *(_value(layer.get(key)) for layer in layers)] for key in keys)
    return "\n".join(_markdown_table(["setting", *map(_value, PRESETS)], rows))


def _sections_within(prefix: str, section: Section, heading: str) -> Iterator[str]:
    """Text and table of each section within a section, and of those within them."""
    for name, field in section.model_fields.items():
        inner = _sections_of(field)
        by_number = _is_by_number(field)
        if by_number and len(inner) > 1:
            continue  # the same kinds as another field has
        for part in inner:
            key = f"{prefix}{name}{'.N' * by_number}"
            kind = f" of kind {part.model_fields['kind'].default}" if len(inner) > 1 else ""
            yield from (f"{heading} {key}{kind}", "", _text(part), "")
            yield from (*_table(f"{key}.", part, is_choice=bool(kind)), "")
            yield from _sections_within(f"{key}.", part, f"{heading}#")


def _table(prefix: str, section: Section, *, is_choice: bool = False) -> Iterator[str]:
    """A row for each setting of a section.

    Args:
        prefix: of its keys.
        section: of the schema.
        is_choice: whether other sections have the same prefix; the kind chooses one.
    """
    schema = section.model_json_schema()["properties"]
    rows = (
        _row(prefix + name, field, schema[name], is_anchor=not is_choice)
        for name, field in section.model_fields.items()
        if not (is_choice and name == "kind")
    )
    return _markdown_table(COLUMNS, filter(None, rows))


def _row(key: str, field: FieldInfo, schema: Mapping[str, Any], *, is_anchor: bool) -> Row | None:
    inner, by_number = _sections_of(field), _is_by_number(field)
    is_off = field.default is None
    if len(inner) == 1 and not by_number and not is_off:
        return None  # a section of its own
    default = "must be given" if field.is_required() else _default(field.get_default(call_default_factory=True))
    if len(inner) > 1 and not by_number:
        kinds = ", ".join(f"`{part.model_fields['kind'].default}`" for part in inner)
        what = "which network; each kind has settings of its own, below"
        return [_anchored(f"{key}.kind"), kinds, f"`{field.default.kind}`", "yes", what]
    mark = _strongest([field, *(part for section in inner for part in section.model_fields.values())])
    shown = _anchored(key) if is_anchor else f"`{key}`"
    kind = "mapping from block to section" if by_number else "section or `null`" if inner else _type(schema)
    return [shown, kind, "" if by_number else default, EFFECT[mark], (field.description or "").replace("|", "\\|")]


def _strongest(fields: Sequence[FieldInfo]) -> Mark:
    """The mark of a setting, or of a section the one that changes most."""
    found = {mark for field in fields for mark in field.metadata if isinstance(mark, Mark)}
    return next(mark for mark in Mark if mark in found)


def _anchored(key: str) -> str:
    return f'<span id="{key}">`{key}`</span>'


def _sections_of(field: FieldInfo) -> list[Section]:
    """The sections that a field may hold. One that is marked is a single setting, whatever its value is made of."""
    return [] if any(isinstance(mark, Mark) for mark in field.metadata) else _sections(field.annotation)


def _sections(annotation: Any) -> list[Section]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _is_by_number(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) is dict and bool(_sections_of(field))


def _text(section: Section) -> str:
    lines = (line.strip() for line in (section.__doc__ or "").strip().splitlines())
    return "\n".join(lines).replace("docs/explanation/mathematics.md", "[Mathematics](../explanation/mathematics.md)")


def _type(schema: Mapping[str, Any]) -> str:
    """In words: `integer ≥ 1, < 2³¹`."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    if "$ref" in schema:
        return "mapping"
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        items = schema.get("items") or schema["prefixItems"][0]
        count = f"{schema['maxItems']} × " if "maxItems" in schema else ""
        return f"list of {count}{_type(items)}"
    if schema["type"] == "object":
        return "mapping"
    bounds = (f"{sign}\u00a0{_number(schema[bound])}" for bound, sign in BOUNDS.items() if bound in schema)
    return f"{TYPES[schema['type']]} {', '.join(bounds)}".strip()


def _number(value: float) -> str:
    return POWERS.get(int(value), f"{value:,}" if isinstance(value, int) else f"{value:g}")


def _default(value: Any) -> str:
    """As one writes it after `--set key=`."""
    return f"`{value if isinstance(value, str) else json.dumps(value, default=str)}`"


def _value(value: Any) -> str:
    return "" if value is None else _default(value)


def _flat(layer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in layer.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _markdown_table(heads: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
