"""Accuracy and throughput against `embedding.sync_steps`: how many steps a version of a learned W_embed lasts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from noprop_dist.bench.harness import Say, Spread, alternate
from noprop_dist.bench.rates import block_rate, parts, ray_records
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.cluster import ray_session
from noprop_dist.records import Evaluated, Record
from noprop_dist.reporting.summary import of_kind

SYNC_STEPS = (1, 8, 32, 128)
FIXED = "one-hot, fixed"


@dataclass(frozen=True)
class Outcome:
    """Of one run: block-steps per second, and final accuracy on the test set by sampler, fractions."""

    rate: float
    mean: float
    stochastic: float


@dataclass(frozen=True)
class SyncRow:
    """Medians over all turns with one kind of W_embed."""

    w_embed: str
    block_steps_per_second: Spread
    mean_sampler_percent: float
    stochastic_percent: float


def bench_sync_steps(
    preset: str, settings: Sequence[str], kind: str, steps: int, repeats: int, workers: int, say: Say
) -> list[SyncRow]:
    """Train with each kind of W_embed, in turns, every turn with a seed of its own; a row for each.

    Args:
        preset: data and network.
        settings: further settings, as for `train`.
        kind: of W_embed: learned or prototype.
        steps: of every block in one turn.
        repeats: turns.
        workers: one thread each.
        say: told what is being measured.
    """
    embeddings = {FIXED: "embedding={kind: onehot}"} | {
        f"{kind}, sync_steps {sync}": f"embedding={{kind: {kind}, sync_steps: {sync}}}" for sync in SYNC_STEPS
    }
    common = [
        *(f"training.max_steps={steps}", f"checkpoint.every_steps={steps}", f"engine.workers={workers}"),
        *("engine.threads_per_worker=1", "engine.device=cpu", "metrics.port=null"),
    ]

    def measure(embedding: str, turn: int) -> Outcome:
        config = load_config(preset, None, [*common, *settings, embedding, f"seed={turn}"])
        records = ray_records(config)
        return Outcome(block_rate(records, parts(config, workers)), *_accuracies(records))

    def told(outcome: Outcome) -> str:
        return f"{outcome.rate:.1f} block-steps/s, mean {outcome.mean:.2%}"

    with ray_session(None):
        sides = {name: partial(measure, embedding) for name, embedding in embeddings.items()}
        turns = alternate(sides, repeats, say, told)
    return [_row(name, each) for name, each in turns.items()]


def _accuracies(records: Sequence[Record]) -> tuple[float, float]:
    """On the whole test set at the end: (mean, stochastic) sampler."""
    final = {each.sampler: each.accuracy for each in of_kind(records, Evaluated) if each.split == "test"}
    return final["mean"], final["stochastic"]


def _row(name: str, outcomes: Sequence[Outcome]) -> SyncRow:
    return SyncRow(
        name,
        Spread([each.rate for each in outcomes]),
        100 * Spread([each.mean for each in outcomes]).median,
        100 * Spread([each.stochastic for each in outcomes]).median,
    )
