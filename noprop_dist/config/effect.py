"""Settings that were given and do nothing, because another setting leaves them no part."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from noprop_dist.config.schema import RunConfig

DOWNLOADED = ("mnist", "fashion-mnist", "cifar10", "cifar100")
ONLY_ON_RAY = (
    r"engine\.(address|workers|prefetch|sampling|blocks_at_once|blocks_per_worker|max_failures|\w+_seconds)"
    r"|checkpoint\.storage_timeout_seconds|metrics\.\w+"
)
NOT_END_TO_END = (
    r"schedule\.\w+|objective\.eta|embedding\.(learning_rate|sync_steps)|metrics\.\w+|checkpoint\.storage_timeout_seconds"
    r"|engine\.(prefetch|sampling|cuda_graphs|blocks_at_once|blocks_per_worker|(move_after|hang|stall_timeout)_seconds)"
)


def without_effect(config: RunConfig, given: Mapping[str, Any]) -> list[str]:
    """One line for each reason why settings have no effect.

    Args:
        config: of the run.
        given: what the user gave of it, section by section.
    """
    keys = list(_dotted(given, RunConfig().model_dump()))
    lines = []
    for pattern, reason in _rules(config):
        if idle := [key for key in keys if re.fullmatch(pattern, key)]:
            lines.append(f"{', '.join(idle)}: no effect {reason}")
            keys = [key for key in keys if key not in idle]
    return lines


def _rules(config: RunConfig) -> Iterator[tuple[str, str]]:
    """(pattern of dotted keys, why they have no effect)."""
    data, training = config.data, config.training
    name = f"with data.name={data.name}"
    if data.name == "digits":
        yield r"data\.root", name
    if data.name not in DOWNLOADED:
        yield r"data\.download", name
    if data.name != "image-folder":
        yield r"data\.image_size", name
    if data.name != "npz":
        yield r"data\.classes", name
    if data.name not in ("image-folder", "npz"):
        yield r"data\.test_fraction", f"{name}, which has a test set"
    if data.name == "packed":
        yield r"data\.validation_fraction", f"{name}: it was split when it was packed"
    if config.schedule.kind == "list":
        yield r"schedule\.alpha_bar_(min|max)", "with schedule.kind=list"
    if not config.embedding.is_learned:
        yield r"embedding\.(learning_rate|sync_steps)", f"with embedding.kind={config.embedding.kind}"
    if config.classifier.kind != "radial":
        yield r"classifier\.sigma", f"with classifier.kind={config.classifier.kind}"
    if training.lr_schedule.kind != "step":
        yield r"training\.lr_schedule\.(step_size|gamma)", f"with training.lr_schedule.kind={training.lr_schedule.kind}"
    if training.max_steps is not None:
        yield r"training\.epochs", f"with training.max_steps={training.max_steps}"
    if config.blocks.only is not None:
        trained = "|".join(map(str, config.blocks.trained()))
        yield rf"blocks\.(training|networks)\.(?!({trained})\.).*", "on blocks that blocks.only does not name"
        yield r"evaluation\.samples", "with blocks.only: a chain that lacks blocks cannot be evaluated"
    if config.metrics.port is None:
        yield r"metrics\.(host|discovery|linger_seconds)", "with metrics.port=null"
    if config.engine.kind == "sequential":
        yield ONLY_ON_RAY, "with engine.kind=sequential"
    if config.method == "backprop":
        yield NOT_END_TO_END, "with method=backprop"


def _dotted(section: Mapping[Any, Any], defaults: Any, prefix: str = "") -> Iterator[str]:
    """The keys whose value is not the default: who copies a whole config.yaml means nothing by the others."""
    for name, value in section.items():
        default = defaults.get(name) if isinstance(defaults, Mapping) else None
        if isinstance(value, Mapping):
            yield from _dotted(value, default, f"{prefix}{name}.")
        elif value != default:
            yield f"{prefix}{name}"
