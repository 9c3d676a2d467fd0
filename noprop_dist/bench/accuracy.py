"""Seconds of training until a network is as good as wanted, against end-to-end back-propagation.

Time counts while any stage is at work: starting processes is not part of it, nor is what the baseline's own process
takes for evaluation (NoProp's evaluator runs beside training, and takes its share of the machine from it).
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from noprop_dist.bench.rates import busy_seconds, ray_records
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.cluster import ray_session
from noprop_dist.storage.checkpoint_files import Record

METHODS = ("noprop", "backprop")


def bench_accuracy(
    preset: str,
    settings: Sequence[str],
    target: float,
    steps: int,
    every: int,
    repeats: int,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Train both, in turns, every turn with a seed of its own; a row for each.

    Args:
        preset: data and network.
        settings: further settings, as for `train`.
        target: accuracy on the test set, `mean` sampler, 0..1.
        steps: of every block.
        every: steps from one evaluation to the next.
        repeats: turns.
        say: told what is being measured.
    """
    fixed = [f"training.max_steps={steps}", f"checkpoint.every_steps={every}", "metrics.port=null"]
    turns: dict[str, list[tuple[float | None, int | None, float]]] = {method: [] for method in METHODS}
    with ray_session(None):
        for turn in range(repeats):
            for method, measured in turns.items():
                config = load_config(preset, None, [*settings, *fixed, f"method={method}", f"seed={turn}"])
                measured.append(until(target, ray_records(config)))
                seconds, step, final = measured[-1]
                reached = "never" if seconds is None else f"after {seconds:.1f} s, {step} steps"
                say(f"turn {turn + 1} of {repeats}, {method}: {target:.0%} {reached}; {final:.2%} at the end")
    return [_row(method, each) for method, each in turns.items()]


def until(target: float, records: Sequence[Record]) -> tuple[float | None, int | None, float]:
    """(seconds of training, step) of the first checkpoint that is good enough, and the last accuracy of a run."""
    measured = [
        (record["step"], record["accuracy"])
        for record in records
        if record["kind"] == "evaluation" and record["split"] == "test" and record["sampler"] == "mean"
    ]
    rounds = [record for record in records if record["kind"] == "round"]
    step = min((step for step, accuracy in measured if accuracy >= target), default=None)
    seconds = None if step is None else busy_seconds([r for r in rounds if r["time"] <= _there(step, rounds)])
    return seconds, step, max(measured)[1]


def _there(step: int, rounds: Sequence[Record]) -> float:
    """When the last stage had come to a step."""
    stages = {record["stage"] for record in rounds}
    first: list[float] = [min(r["time"] for r in rounds if r["stage"] == s and r["step"] >= step) for s in stages]
    return max(first)


def _row(method: str, turns: Sequence[tuple[float | None, int | None, float]]) -> dict[str, Any]:
    """Medians over all turns; None where the median turn never came to the target."""
    seconds = sorted(float("inf") if each is None else each for each, _, _ in turns)
    steps = sorted(float("inf") if step is None else step for _, step, _ in turns)
    return {
        "method": method,
        "seconds_to_target": _finite(statistics.median(seconds)),
        "least": _finite(seconds[0]),
        "most": _finite(seconds[-1]),
        "steps": _finite(statistics.median(steps)),
        "final_percent": 100 * statistics.median(final for _, _, final in turns),
        "turns": [each for each, _, _ in turns],
    }


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
