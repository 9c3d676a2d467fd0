"""How accuracy and throughput depend on how long a version of a learned W_embed lasts."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from noprop_dist.bench.rates import block_rate, parts, ray_records
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.cluster import ray_session
from noprop_dist.storage.checkpoint_files import Record

SYNC_STEPS = (1, 8, 32, 128)
FIXED = "one-hot, fixed"


def bench_sync_steps(
    preset: str, settings: Sequence[str], kind: str, steps: int, repeats: int, workers: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Train with each, in turns, every turn with a seed of its own; a row for each.

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
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in embeddings}
    with ray_session(None):
        for turn in range(repeats):
            for name, embedding in embeddings.items():
                config = load_config(preset, None, [*common, *settings, embedding, f"seed={turn}"])
                records = ray_records(config)
                figures = (block_rate(records, parts(config, workers)), *_accuracies(records))
                measured[name].append(figures)
                say(f"turn {turn + 1} of {repeats}, {name}: {figures[0]:.1f} block-steps/s, mean {figures[1]:.2%}")
    return [_row(name, each) for name, each in measured.items()]


def _accuracies(records: Sequence[Record]) -> tuple[float, float]:
    """On the whole test set at the end: (mean, stochastic) sampler."""
    final = {r["sampler"]: r["accuracy"] for r in records if r["kind"] == "evaluation" and r["split"] == "test"}
    return final["mean"], final["stochastic"]


def _row(name: str, figures: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    rates, means, stochastic = zip(*figures, strict=True)
    return {
        "w_embed": name,
        "block_steps_per_second": statistics.median(rates),
        "least": min(rates),
        "most": max(rates),
        "mean_sampler_percent": 100 * statistics.median(means),
        "stochastic_percent": 100 * statistics.median(stochastic),
    }
