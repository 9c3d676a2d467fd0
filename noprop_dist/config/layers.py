"""Makes a configuration of layers: defaults ← preset ← YAML file ← single settings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any

from noprop_dist.config.effect import advice, dropped, without_effect
from noprop_dist.config.refusals import types_at
from noprop_dist.config.schema import RunConfig
from noprop_dist.config.yaml_text import MAX_BYTES, parse_yaml, to_yaml_text
from noprop_dist.errors import UserError, why
from noprop_dist.files import local_path, open_file

Layer = dict[str, Any]
PRESETS = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")


def load_config(
    preset: str | None, file: Path | None, settings: Sequence[str], warn: Callable[[str], None] = lambda _: None
) -> RunConfig:
    """A configuration from a preset, a YAML file and `key.path=value` settings, each over the one before.

    Without preset and file the preset is `digits`. `warn` is told of settings in file and `settings` that have no
    effect, and of those that train badly.

    Raises:
        UserError: a layer cannot be read, or what it says is not allowed.
    """
    name = preset or (None if file else "digits")
    layers = [file_layer(file)] if file else []
    config = validated(reduce(merge, [*layers, *map(setting_layer, settings)], preset_layer(name) if name else {}))
    for line in (*idle_settings(config, settings, layers), *advice(config)):
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
        raise UserError(f"preset {name}: no such preset; allowed are {', '.join(PRESETS)}")
    text = (resources.files(__package__) / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    return parse_layer(text, f"preset {name}")


def file_layer(file: Path) -> Layer:
    """The settings of a YAML file.

    Raises:
        UserError: it cannot be read or holds no settings.
    """
    try:
        with open_file(local_path(file), allow_pipe=True) as opened:
            text = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"--config {file}: cannot be read: {why(error)}") from error
    return parse_layer(text, f"--config {file}")


def setting_layer(setting: str) -> Layer:
    """`a.b=value` → {"a": {"b": value}}, the value read as YAML. A setting that is text takes it as it stands.

    Raises:
        UserError: it is not of that form.
    """
    key, equals, text = setting.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"setting {setting}: write key.path=value, for example training.max_steps=300")
    value: Any = text
    if not _is_text(key) or text in ("", "~", "null") or text[0] in "'\"":
        value = parse_yaml(text, f"setting {setting}")
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
    return RunConfig(**{str(key): value for key, value in values.items()})


def to_yaml(config: RunConfig) -> str:
    """The whole configuration, defaults included, as YAML that `load_config` reads back."""
    return to_yaml_text(config.model_dump(mode="json"))


def parse_layer(text: str | bytes, source: str) -> Layer:
    """Settings that stand in YAML.

    Raises:
        UserError: it is damaged, or holds no settings; begins with the source.
    """
    layer = parse_yaml(text, source)
    if not isinstance(layer, dict):
        found = "nothing" if layer is None else f"a {_KINDS.get(type(layer), 'single value')}"
        raise UserError(f"{source}: must hold settings such as `seed: 1`, it holds {found}")
    return layer


def _is_text(key: str) -> bool:
    types = types_at(RunConfig, key.split("."))
    return str in types and {str, NoneType}.issuperset(types)


_KINDS = {list: "list", str: "text", int: "number", float: "number"}
