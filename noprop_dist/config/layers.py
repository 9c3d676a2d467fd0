"""Makes a configuration of layers: defaults ← preset ← YAML file ← single settings."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from noprop_dist.config.effect import dropped, without_effect
from noprop_dist.config.schema import NetworkSettings, RunConfig
from noprop_dist.config.yaml_text import MAX_BYTES, parse_yaml, to_yaml_text
from noprop_dist.errors import UserError
from noprop_dist.files import local_path, open_file

Layer = dict[str, Any]
PRESETS = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")


def load_config(
    preset: str | None, file: Path | None, settings: Sequence[str], warn: Callable[[str], None] = lambda _: None
) -> RunConfig:
    """A configuration from a preset, a YAML file and `key.path=value` settings, each over the one before.

    Without preset and file the preset is `digits`. `warn` is told of settings in file and `settings` that have no
    effect.

    Raises:
        UserError: a layer cannot be read, or what it says is not allowed.
    """
    name = preset or (None if file else "digits")
    layers = [file_layer(file)] if file else []
    config = validated(reduce(merge, [*layers, *map(setting_layer, settings)], preset_layer(name) if name else {}))
    for line in idle_settings(config, settings, layers):
        warn(line)
    return config


def idle_settings(config: RunConfig, settings: Sequence[str], layers: Sequence[Layer] = ()) -> list[str]:
    """One line for each reason why settings have no effect on a configuration.

    Args:
        config: that was made of them.
        settings: `key.path=value`.
        layers: that lie below them.
    """
    every = [*layers, *map(setting_layer, settings)]
    return [*_repeated(settings), *dropped(config, every), *without_effect(config, reduce(merge, every, {}))]


def _repeated(settings: Sequence[str]) -> Iterator[str]:
    keys = [setting.partition("=")[0] for setting in settings]
    for number, setting in enumerate(settings):
        later = [other for other, key in zip(settings, keys, strict=True) if key == keys[number]][-1]
        if later != setting:
            yield f"{setting}: no effect, for {later} is given, too"


def preset_layer(name: str) -> Layer:
    """The settings of a preset that is shipped with the package.

    Raises:
        UserError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise UserError(f"--preset {name}: no such preset; allowed are {', '.join(PRESETS)}")
    text = (resources.files(__package__) / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return _parse_layer(text, f"preset {name}")


def file_layer(file: Path) -> Layer:
    """The settings of a YAML file.

    Raises:
        UserError: it cannot be read or holds no settings.
    """
    try:
        with open_file(local_path(file), allow_pipe=True) as opened:
            text = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"--config {file}: cannot be read: {error}") from error
    return _parse_layer(text, f"--config {file}")


def setting_layer(setting: str) -> Layer:
    """`a.b=value` → {"a": {"b": value}}, the value read as YAML. A setting that is text takes it as it stands.

    Raises:
        UserError: it is not of that form.
    """
    key, equals, text = setting.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"--set {setting}: write key.path=value, for example training.max_steps=300")
    value: Any = text
    if not _is_text(key) or text in ("", "~", "null") or text[0] in "'\"":
        value = parse_yaml(text, f"--set {setting}")
    for part in reversed(key.split(".")):
        # Block numbers are the only keys that are not names (blocks.networks.3.kind=mlp).
        value = {int(part) if part.isdecimal() and len(part) < 10 else part: value}
    layer: Layer = value
    return layer


def merge(below: Mapping[Any, Any], above: Mapping[Any, Any]) -> Layer:
    """`above` over `below`, mapping by mapping; a changed `kind` drops the settings of the other kind.

    The engine is the exception: both kinds have the same settings.
    """
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if not (isinstance(old, Mapping) and isinstance(value, Mapping)):
            merged[key] = value
        elif key != "engine" and "kind" in value and "kind" in old and value["kind"] != old["kind"]:
            merged[key] = dict(value)
        else:
            merged[key] = merge(old, value)
    return merged


def validated(values: Mapping[str, Any]) -> RunConfig:
    """The configuration of these values.

    Raises:
        UserError: one sentence for each value that is not allowed, with its key.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_sentences(error.errors()))) from error


def to_yaml(config: RunConfig) -> str:
    """The whole configuration, defaults included, as YAML that `load_config` reads back."""
    return to_yaml_text(config.model_dump(mode="json"))


def _parse_layer(text: str | bytes, source: str) -> Layer:
    layer = parse_yaml(text, source)
    if not isinstance(layer, dict):
        found = "nothing" if layer is None else f"a {_KINDS.get(type(layer), 'single value')}"
        raise UserError(f"{source}: must hold settings such as `seed: 1`, it holds {found}")
    return layer


def _sentences(details: Sequence[Any]) -> Iterator[str]:
    """One sentence for each setting that is refused; what a union says of each of its members is put together."""
    by_key: dict[str, list[Any]] = {}
    for detail in details:
        by_key.setdefault(_key(detail), []).append(detail)
    for key, of_key in by_key.items():
        first, reasons = of_key[0], list(dict.fromkeys(_reason(detail) for detail in of_key))
        if NoneType in _types_at(first["loc"]):
            reasons.append("null")
        refused = "" if first["type"] in _SAID_IN_FULL else f"{_shortened(first['input'])} is not allowed: "
        yield f"{key}{': ' if key else ''}{refused}{', or '.join(reasons)}"


def _reason(detail: Any) -> str:
    location = detail["loc"]
    match detail["type"]:
        case "extra_forbidden" | "invalid_key":
            return f"there is no such setting{_suggestion(location)}"
        case "missing":
            return "must be given"
        case "value_error" | "boolean":
            return str(detail["msg"]).removeprefix("Value error, ")
        case "model_type" | "model_attributes_type":
            names, value = _settings_at(location), detail["input"]
            example = f"; write {_key(detail)}.kind={value}" if "kind" in names and isinstance(value, str) else ""
            return f"this is a section, with the settings {', '.join(names)}{example}"
    return str(detail["msg"][:1].lower() + detail["msg"][1:])


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} …"


def _key(detail: Any) -> str:
    """The dotted key of an error, without the members of unions that pydantic puts into its location."""
    location = detail["loc"]
    known = [part for end, part in enumerate(location, start=1) if part not in _NETWORKS and _types_at(location[:end])]
    if detail["type"] == "boolean":  # the section tells it
        known.append(detail["ctx"]["setting"])
    return ".".join(map(str, [*known, *(location[-1:] if detail["type"] in _UNKNOWN else ())]))


def _suggestion(location: tuple[Any, ...]) -> str:
    names = _settings_at(location[:-1])
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; allowed are {', '.join(names)}"


def _is_text(key: str) -> bool:
    types = _types_at(key.split("."))
    return str in types and {str, NoneType}.issuperset(types)


def _settings_at(location: Sequence[Any]) -> list[str]:
    """The names of the settings of the section that stands at a location, of every kind that it may have."""
    sections = [each for each in _types_at(location) if _is_section(each)]
    return list(dict.fromkeys(name for section in sections for name in section.model_fields))


def _types_at(location: Sequence[Any]) -> list[Any]:
    """The types that the schema allows at a location; none if it has no such setting."""
    types: list[Any] = [RunConfig]
    for part in location:
        if part in _NETWORKS:  # pydantic puts the kind of a network into an error's location, though it is no key
            types = [_NETWORKS[part]]
            continue
        fields = [
            each.model_fields[part].annotation for each in types if _is_section(each) and part in each.model_fields
        ]
        elements = [get_args(each)[get_origin(each) is dict] for each in types if get_origin(each) in (dict, tuple)]
        types = [member for annotation in (*fields, *elements) for member in _members(annotation)]
    return types


def _members(annotation: Any) -> list[Any]:
    """The types of a union, without what `Annotated` says of them."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for each in get_args(annotation) for member in _members(each)]
    return [annotation]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


_KINDS = {list: "list", str: "text", int: "number", float: "number"}
_UNKNOWN = ("extra_forbidden", "invalid_key")
_SAID_IN_FULL = (*_UNKNOWN, "missing", "value_error", "boolean")
_NETWORKS: dict[Any, type[BaseModel]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(get_args(NetworkSettings)[0])
}
