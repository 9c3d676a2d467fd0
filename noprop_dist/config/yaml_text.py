"""YAML as people mean it: the core schema of YAML 1.2, every key once, and no more values than fit in a glance.

PyYAML reads YAML 1.1, where `off` is false, `010` is 8, `1:30` is 90 and `1e-3` is text.
"""

import re
from copy import deepcopy
from functools import lru_cache
from typing import Any, ClassVar

import yaml

from noprop_dist.errors import UserError

MAX_BYTES = 2**20
MAX_DIGITS = 400
MAX_VALUES = 100_000
"""Aliases counted as often as they are used: nine lines of YAML can stand for a billion values."""
INT = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"

_CORE_SCHEMA = (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    ("int", INT, tuple("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        tuple("-+.0123456789"),
    ),
    ("merge", r"<<", ("<",)),
)
MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def compose_document(self) -> Any:
        node = super().compose_document()
        _check_size(node)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            name = _meant(key)
            if name in lines:
                problem = f"{key.value} stands twice in one section, first in line {lines[name]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[name] = key.start_mark.line + 1
        return node

    def flatten_mapping(self, node: Any) -> None:
        """Put in what stands under `<<`: the first of several mappings that has a key gives its value.

        Written out, because releases of PyYAML take the first or the last.
        """
        merged: dict[Any, Any] = {}
        for mapping in (each for key, value in node.value if key.tag == MERGE for each in _mappings(value)):
            self.flatten_mapping(mapping)
            for pair in mapping.value:
                merged.setdefault(_meant(pair[0]), pair)
        node.value = [*merged.values(), *(pair for pair in node.value if pair[0].tag != MERGE)]


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would take for something else."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = dict(  # type: ignore[misc]
        yaml.SafeDumper.yaml_implicit_resolvers
    )


for _tag, _pattern, _first in _CORE_SCHEMA:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _meant(key: yaml.Node) -> Any:
    """What a key stands for: the block number 1 is written 1, 01, 0x1 or "1"."""
    if not isinstance(key, yaml.ScalarNode):
        return key
    text = key.value
    return _number(text) if re.fullmatch(INT, text) and len(text) <= MAX_DIGITS else text


def _mappings(merged: yaml.Node) -> list[yaml.MappingNode]:
    """Those under one `<<`: one, or a list of several."""
    mappings: list[Any] = merged.value if isinstance(merged, yaml.SequenceNode) else [merged]
    for each in mappings:
        if not isinstance(each, yaml.MappingNode):
            raise yaml.MarkedYAMLError(problem="<< takes a mapping or a list of mappings", problem_mark=each.start_mark)
    return mappings


def _number(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if len(text) > MAX_DIGITS:
        raise yaml.MarkedYAMLError(problem=f"a number of {len(text):,} digits", problem_mark=node.start_mark)
    return _number(text)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node))
    return float(text.replace(".", "") if text[-1:].isalpha() else text)  # .inf, .nan


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def parse_yaml(text: str | bytes, source: str) -> Any:
    """The value of one YAML document.

    Args:
        text: at most a mebibyte; bytes are UTF-8, with or without a byte order mark.
        source: that an error begins with.

    Raises:
        UserError: it is no YAML, a key stands twice, or it stands for too many values.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{source}: is larger than {MAX_BYTES // 2**20} MiB, too large for settings")
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return deepcopy(_loaded(decoded))
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: is no UTF-8 text (byte {error.start + 1}); save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{source}: cannot be read as YAML: {_place(error)}") from error
    except RecursionError as error:
        raise UserError(f"{source}: cannot be read as YAML: it is nested too deeply") from error
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{source}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error


@lru_cache(maxsize=64)
def _loaded(text: str) -> Any:
    """Kept, because one command asks a run for its configuration a dozen times, and PyYAML takes 5 ms for it."""
    return yaml.load(text, _Loader)


def to_yaml_text(value: Any) -> str:
    """Plain values as YAML that `parse_yaml`, and any reader of YAML 1.1, reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _place(error: yaml.MarkedYAMLError) -> str:
    mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
    if "'\\t'" in str(problem):
        problem = "a tab stands where only spaces may"
    if str(problem).startswith("expected <block end>"):
        problem = "its indentation does not fit the lines above"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else str(problem)


def _check_size(root: yaml.Node | None) -> None:
    """Refuse what stands for too many values.

    Raises:
        MarkedYAMLError: as described, or a value contains itself.
    """
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = None
            parts = node.value if isinstance(node, yaml.SequenceNode) else []
            if isinstance(node, yaml.MappingNode):
                parts = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(map(size, parts))
        known = sizes[id(node)]
        if known is None or known > MAX_VALUES:
            problem = "a value contains itself" if known is None else f"it stands for more than {MAX_VALUES:,} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return known

    if root is not None:
        size(root)
