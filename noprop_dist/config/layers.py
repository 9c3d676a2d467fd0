"""Makes a configuration of layers: defaults ← preset ← YAML file ← single settings."""

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from noprop_dist.config.schema import NetworkSettings, RunConfig
from noprop_dist.errors import UserError

Layer = dict[str, Any]
PRESETS = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")


def load_config(preset: str | None, file: Path | None, settings: Sequence[str]) -> RunConfig:
    """A configuration from a preset, a YAML file and `key.path=value` settings, each over the one before.

    Without preset and file the preset is `digits`.

    Raises:
        UserError: a layer cannot be read, or what it says is not allowed.
    """
    name = preset or (None if file else "digits")
    layers = ([preset_layer(name)] if name else []) + ([file_layer(file)] if file else [])
    layers += [setting_layer(setting) for setting in settings]
    merged: Layer = {}
    for layer in layers:
        merged = merge(merged, layer)
    return validated(merged)


def preset_layer(name: str) -> Layer:
    """The settings of a preset that is shipped with the package.

    Raises:
        UserError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise UserError(f"--preset {name}: no such preset; allowed are {', '.join(PRESETS)}")
    text = (resources.files(__package__) / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return _parse_yaml(text, f"preset {name}")


def file_layer(file: Path) -> Layer:
    """The settings of a YAML file.

    Raises:
        UserError: it cannot be read or holds no settings.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {file}: cannot be read: {error}") from error
    return _parse_yaml(text, f"--config {file}")


def setting_layer(setting: str) -> Layer:
    """`a.b=value` → {"a": {"b": value}}, the value read as YAML.

    Raises:
        UserError: it is not of that form.
    """
    key, equals, text = setting.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"--set {setting}: write key.path=value, for example training.max_steps=300")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {setting}: the value cannot be read as YAML") from error
    for part in reversed(key.split(".")):
        # Block numbers are the only keys that are not names (blocks.networks.3.kind=mlp).
        value = {int(part) if part.isdigit() else part: value}
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
        raise UserError("; ".join(dict.fromkeys(_sentence(dict(detail)) for detail in error.errors()))) from error


def to_yaml(config: RunConfig) -> str:
    """The whole configuration, defaults included, as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _parse_yaml(text: str, source: str) -> Layer:
    try:
        layer = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{source}: is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(layer, dict):
        raise UserError(f"{source}: must hold settings such as `seed: 1`, not {type(layer).__name__}")
    return layer


def _sentence(detail: dict[str, Any]) -> str:
    location: tuple[Any, ...] = detail["loc"]
    key = ".".join(str(part) for part in location if part not in _NETWORKS)
    if detail["type"] == "extra_forbidden":
        return f"{key}: there is no such setting{_suggestion(location)}"
    reason = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{key}: {reason}" if key else reason
    return f"{key}: {detail['input']!r} is not allowed: {reason[0].lower()}{reason[1:]}"


def _suggestion(location: tuple[Any, ...]) -> str:
    names = list(_settings_at(location[:-1]).model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; allowed are {', '.join(names)}"


def _settings_at(location: tuple[Any, ...]) -> type[BaseModel]:
    model: type[BaseModel] = RunConfig
    for part in location:
        field = model.model_fields.get(part)
        if part in _NETWORKS:
            model = _NETWORKS[part]
        elif field and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return model


# pydantic puts the kind of a network into an error's location, though it is no key.
_NETWORKS: dict[str, type[BaseModel]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(get_args(NetworkSettings)[0])
}
