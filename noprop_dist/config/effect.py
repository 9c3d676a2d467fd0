"""Settings that were given and do nothing, as another setting leaves them no part; and those that do little good."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from noprop_dist.config.schema import RunConfig

DOWNLOADED = ("mnist", "fashion-mnist", "cifar10", "cifar100")
ONLY_ON_RAY = (
    r"engine\.(address|workers|prefetch|sampling|blocks_at_once|blocks_per_worker|max_failures|\w+_seconds)"
    r"|checkpoint\.storage_timeout_seconds|metrics\.\w+"
)
NOT_END_TO_END = (
    r"blocks\.noise\.\w+|evaluation\.steps_per_block|schedule\.\w+|objective\.eta|embedding\.(learning_rate|sync_steps)|metrics\.\w+|checkpoint\.storage_timeout_seconds"
    r"|engine\.profile.*|engine\.(prefetch|sampling|cuda_graphs|blocks_at_once|blocks_per_worker|(move_after|hang|stall_timeout)_seconds)"
)


def without_effect(config: RunConfig, given: Mapping[str, Any]) -> list[str]:
    """One line for each reason why settings have no effect.

    Args:
        config: of the run.
        given: what the user gave of it, section by section.
    """
    keys = list(_dotted(given, RunConfig().model_dump()))
    lines = []
    for pattern, applies, reason in _rules(config):
        idle = [key for key in keys if applies and re.fullmatch(pattern, key)]
        if idle:
            lines.append(f"{', '.join(idle)}: no effect {reason}")
            keys = [key for key in keys if key not in idle]
    return lines


def advice(config: RunConfig) -> list[str]:
    """One line for each choice that is allowed, and was measured to train badly (docs/measurements.md)."""
    noise = config.blocks.noise
    if config.method == "noprop" and config.blocks.count == 1 and noise.is_wide and noise.weight == "snr":
        return [
            "blocks.noise.weight=snr: one block for all noise levels hardly learns the noisiest, where a prediction "
            "begins; blocks.noise.weight=edm trains it better"
        ]
    return []


def is_idle(config: RunConfig, key: str) -> bool:
    """Return True if a setting, by its dotted key, has no effect on a run."""
    return any(applies and re.fullmatch(pattern, key) for pattern, applies, _ in _rules(config))


def dropped(config: RunConfig, layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each given setting that is gone, because another kind was chosen over it.

    Args:
        config: that was made of the layers.
        layers: what the user gave, each over the one before.
    """
    there, lines = dict(leaves(config.model_dump())), []
    for key in dict.fromkeys(key for layer in layers for key in _dotted(layer, RunConfig().model_dump())):
        kind = f"{key.rpartition('.')[0]}.kind"
        if kind in there and key not in there:
            lines.append(f"{key}: no effect with {kind}={there[kind]}")
    return lines


def leaves(section: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a section and those below it."""
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _rules(config: RunConfig) -> list[tuple[str, bool, str]]:
    """(pattern of dotted keys, whether they have no effect, why)."""
    name, with_name = config.data.name, f"with data.name={config.data.name}"
    lr_schedule, max_steps = config.training.lr_schedule.kind, config.training.max_steps
    embedding, classifier = config.embedding, config.classifier.kind
    blocks, on_cpu = config.blocks.trained(), config.engine.device == "cpu"
    trained = "|".join(map(str, blocks))
    kinds = {config.blocks.network_of(t).kind for t in blocks}
    return [
        (r"data\.root", name in ("digits", "given"), with_name),
        (r"data\.download", name not in DOWNLOADED, with_name),
        (r"data\.image_size", name != "image-folder", with_name),
        (r"data\.classes", name not in ("npz", "given"), with_name),
        (r"data\.columns", name != "given", with_name),
        (r"data\.test_fraction", name not in ("image-folder", "npz", "given"), f"{with_name}, which has a test set"),
        (r"data\.validation_fraction", name == "packed", f"{with_name}: it was split when it was packed"),
        (r"schedule\.alpha_bar_(min|max)", config.schedule.kind == "list", "with schedule.kind=list"),
        (
            r"embedding\.(learning_rate|sync_steps)",
            not embedding.is_learned,
            f"with embedding.kind={embedding.kind}",
        ),
        (
            r"blocks\.noise\.(density|weight|overlap|width)",
            config.blocks.noise.kind == "point",
            "with blocks.noise.kind=point",
        ),
        (r"blocks\.noise\.(density|weight|overlap)", not config.blocks.noise.is_wide, "with blocks.noise.width=0"),
        (r"classifier\.sigma", classifier != "radial", f"with classifier.kind={classifier}"),
        (
            r"training\.lr_schedule\.(step_size|gamma)",
            lr_schedule != "step",
            f"with training.lr_schedule.kind={lr_schedule}",
        ),
        (r"training\.epochs", max_steps is not None, f"with training.max_steps={max_steps}"),
        (
            rf"blocks\.(training|networks)\.(?!({trained})\.).*",
            config.blocks.only is not None,
            "on blocks that blocks.only does not name",
        ),
        (r"blocks\.network\..*", set(blocks) <= set(config.blocks.networks), "where blocks.networks names every block"),
        *(
            (rf"blocks\.{re.escape(key)}\.layers", True, f"with blocks.{key}.stack={layers}")
            for key, layers in config.blocks.stacks().items()
        ),
        (
            r"training\.channels_last",
            kinds <= {"mlp", "vit"},
            f"with blocks.network.kind={' and '.join(sorted(kinds))}",
        ),
        (r"training\.precision", on_cpu and config.training.precision == "tf32", "on engine.device=cpu"),
        (r"engine\.cuda_graphs", on_cpu, "on engine.device=cpu"),
        (r"evaluation\.samples", config.blocks.only is not None, "with blocks.only: only a whole chain is evaluated"),
        (
            r"checkpoint\.score",
            config.blocks.only is not None or not config.evaluation.samples,
            "where no checkpoint is measured",
        ),
        (r"metrics\.(host|discovery|linger_seconds)", config.metrics.port is None, "with metrics.port=null"),
        (ONLY_ON_RAY, config.engine.kind == "sequential", "with engine.kind=sequential"),
        (NOT_END_TO_END, config.method == "backprop", "with method=backprop"),
    ]


def _dotted(section: Mapping[Any, Any], defaults: Any, prefix: str = "") -> Iterator[str]:
    """The keys whose value is not the default: who copies a whole config.yaml means nothing by the others."""
    for name, value in section.items():
        default = defaults.get(name) if isinstance(defaults, Mapping) else None
        if isinstance(value, Mapping):
            yield from _dotted(value, default, f"{prefix}{name}.")
        elif value != default:
            yield f"{prefix}{name}"
