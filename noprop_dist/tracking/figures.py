"""What trackers show of a run: numbers under names, from its records and its settings."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from noprop_dist.config.effect import leaves
from noprop_dist.config.schema import RunConfig
from noprop_dist.printable import without_secrets
from noprop_dist.records import EmbeddingUpdated, Evaluated, ObjectiveMeasured, Record, RoundDone
from noprop_dist.stages import EMBEDDING

SECRET = re.compile(r"(?i)(secret|token|passw|credential|api_?key|access_?key)")
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Figures:
    """The numbers of one record.

    Attributes:
        step: that they belong to.
        time: Unix seconds.
        axis: what counts the steps: a stage ("block-03"), or the checkpoints.
        values: by name, for example `loss/block-03`.
    """

    step: int
    time: float
    axis: str
    values: Mapping[str, float]


def figures_of(record: Record, blocks: int) -> Figures | None:
    """The numbers of a record in a run of T = `blocks`; None if it has none to show."""
    match record:
        case RoundDone(loss=loss, error=error, gradient_norm=norm):
            stage = record.stage.file(blocks)
            values = {f"loss/{stage}": loss, f"error/{stage}": error, f"gradient_norm/{stage}": norm}
            return Figures(record.step, record.time, stage, values)
        case EmbeddingUpdated():
            names = ("mean_norm", "least_distance", "gradient_norm")
            values = {f"embedding/{name}": getattr(record, name) for name in names}
            return Figures(record.step, record.time, EMBEDDING.name, values)
        case Evaluated():
            of = f"{record.split}-{record.sampler}"
            nearest = record.nearest_embedding_accuracy
            values = {f"accuracy/{of}": record.accuracy, f"nearest_embedding_accuracy/{of}": nearest}
            return Figures(record.step, record.time, CHECKPOINT, values)
        case ObjectiveMeasured():
            return Figures(record.step, record.time, CHECKPOINT, _terms(record, blocks))
    return None


def _terms(record: ObjectiveMeasured, blocks: int) -> dict[str, float]:
    names = ("cross_entropy", "kl", "denoising", "objective", "elbo")
    terms = {f"objective/{name}": getattr(record, name) for name in names}
    width = max(2, len(str(blocks)))
    for name, values in (("denoising", record.denoising_terms), ("squared_error", record.squared_errors)):
        terms |= {f"{name}/block-{t:0{width}d}": value for t, value in enumerate(values, start=1)}
    return terms


def hyper_parameters(config: RunConfig) -> dict[str, str | int | float | bool]:
    """All settings by dotted key, as trackers take them. What may be a secret is masked."""
    return {key: _shown(key, value) for key, value in leaves(config.model_dump(mode="json"))}


def _shown(key: str, value: object) -> str | int | float | bool:
    if SECRET.search(key) and value is not None:
        return "***"
    if isinstance(value, bool | int | float):
        return value
    return without_secrets(value if isinstance(value, str) else json.dumps(value))
