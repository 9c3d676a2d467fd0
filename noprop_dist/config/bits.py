"""Which settings of a run change the bits of its weights, and so which of them a `resume` may change."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from noprop_dist.config.layers import merge, setting_layer, validated
from noprop_dist.config.schema import RunConfig
from noprop_dist.config.sections.base import Mark
from noprop_dist.config.sections.engine import WorkerRange
from noprop_dist.errors import UserError

OF_SINGLE_STAGES = re.compile(r"blocks\.training\.\d+\.\w+|(classifier|embedding)\.learning_rate")
"""Keys that change bits and may still change on `resume`: they hold for one stage, from the step where it stands."""
LENGTH = "training.epochs", "training.max_steps"
"""Keys that say how long a run is. They may change on `resume`, too: `training.setup.check_length` has the rest."""
STEPS_PER_BLOCK = "evaluation.steps_per_block"


def what_changes_bits(config: RunConfig) -> dict[str, Any]:
    """The settings that fix the weights of every stage, bit for bit, on one kind of machine.

    Values are compared as they are written: device `auto` is not `cpu`, even on a machine without a GPU, because a
    configuration does not know its machine. `blocks.only` is not here: a block has the same weights without the others.

    Returns:
        Dotted key → plain value, in the order of the schema.
    """
    marks = (Mark.BITS, Mark.BASELINE_BITS) if config.method == "backprop" else (Mark.BITS,)
    return _marked(config, *marks)


def changed_bits(before: RunConfig, after: RunConfig) -> list[str]:
    """Keys whose values make `after` another run than `before`.

    These are the settings of `what_changes_bits`, `blocks.only`, which says what stages the result has, and
    `evaluation.steps_per_block`, for figures that were measured with another are not to be compared.
    """
    old, new = ({**what_changes_bits(each), **_marked(each, Mark.BLOCKS, Mark.CHAIN)} for each in (before, after))
    return [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]


def as_begun(config: RunConfig, before: RunConfig) -> RunConfig:
    """The configuration with as many processes as the run began with, where the baseline's number is left open.

    Args:
        config: to go on with.
        before: of the run so far.
    """
    if config.method == "backprop" and config.engine.workers == "auto":
        return with_workers(config, before.engine.workers)
    return config


def with_workers(config: RunConfig, workers: int | str | WorkerRange) -> RunConfig:
    """The configuration with another `engine.workers`."""
    return config.model_copy(update={"engine": config.engine.model_copy(update={"workers": workers})})


def every_setting(config: RunConfig) -> dict[str, Any]:
    """All settings: dotted key → plain value, in the order of the schema."""
    return _marked(config, *Mark)


def setting_at(config: RunConfig, key: str) -> Any:
    """The plain value of a dotted key; None if the configuration has no such key (`blocks.networks.3.kind`)."""
    return every_setting(config).get(key)


def shown(value: Any) -> str:
    """A plain value as a user would write it after `--set key=`."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def may_change(key: str, method: str = "noprop") -> bool:
    """Return True if a `resume` may change this setting, though it changes bits."""
    return key in LENGTH or (method == "noprop" and OF_SINGLE_STAGES.fullmatch(key) is not None)


def changes_between(before: RunConfig, after: RunConfig) -> list[str]:
    """As `key=value` what a run that goes on changes from here on."""
    return [f"{key}={shown(setting_at(after, key))}" for key in changed_bits(before, after)]


def continued(before: RunConfig, settings: Sequence[str]) -> RunConfig:
    """The configuration with which a run goes on.

    Args:
        before: the configuration of the run so far.
        settings: `key.path=value`, as `resume --set` takes them.

    Returns:
        The new configuration; `changes_between` says what it changes that would change bits.

    Raises:
        UserError: a setting is not allowed, or it changes the bits of the run as a whole.
    """
    values: dict[str, Any] = before.model_dump()
    for setting in settings:
        values = merge(values, setting_layer(setting))
    after = validated(values)
    for key in changed_bits(before, after):
        if not may_change(key, before.method):
            raise UserError(_refusal(before, after, key))
    return after


def _refusal(before: RunConfig, after: RunConfig, key: str) -> str:
    old, new = (shown(setting_at(config, key)) for config in (before, after))
    if key == STEPS_PER_BLOCK:
        return (
            f"{key}={new}: this run has {key}={old}, in which its checkpoints are measured; "
            f"`evaluate --steps-per-block {new}` measures them in other steps"
        )
    effect = "names the blocks" if key == "blocks.only" else "fixes the bits"
    stages = (
        ", from here on blocks.training.N.*, classifier.learning_rate and embedding.learning_rate"
        if before.method == "noprop"
        else ""
    )
    return (
        f"{key}={new}: this run has {key}={old}, which {effect} of its result; resume only takes settings that "
        f"change no bits (such as engine.address, checkpoint.* and metrics.*){stages}, and the length of the run "
        f"({' or '.join(LENGTH)})"
    )


def _marked(config: RunConfig, *marks: Mark) -> dict[str, Any]:
    return {key: value for key, mark, value in _settings(config) if mark in marks}


def _settings(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Mark, Any]]:
    """(dotted key, mark, plain value) of every setting; sections have no mark, nor have mappings by block number."""
    for name, field in type(section).model_fields.items():
        key, value = prefix + name, getattr(section, name)
        mark = next((each for each in field.metadata if isinstance(each, Mark)), None)
        if mark is not None:
            yield key, mark, _plain(value)
            continue
        if value is None:  # a section that is not given
            continue
        parts = (
            {key: value} if isinstance(value, BaseModel) else {f"{key}.{block}": each for block, each in value.items()}
        )
        for part_key, part in parts.items():
            yield from _settings(part, f"{part_key}.")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    return list(value) if isinstance(value, tuple) else value
