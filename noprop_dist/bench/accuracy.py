"""Seconds of training until a network is as good as wanted, against end-to-end back-propagation.

Time counts while at least one stage trains. So it leaves out the start of processes, and evaluation by the baseline's
own process. NoProp's evaluator runs beside training, and takes its share of the machine from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite

from noprop_dist.bench.harness import Say, Spread, alternate
from noprop_dist.bench.rates import ray_records
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.cluster import ray_session
from noprop_dist.records import Evaluated, Record, RoundDone
from noprop_dist.reporting.summary import busy_seconds_to, of_kind

METHODS = ("noprop", "backprop")


@dataclass(frozen=True)
class Reached:
    """When a run came to the target.

    Attributes:
        seconds: of training until its first checkpoint that is good enough; infinite if none is.
        step: of that checkpoint; infinite if there is none.
        final: accuracy of its last checkpoint, a fraction.
    """

    seconds: float
    step: float
    final: float


@dataclass(frozen=True)
class AccuracyRow:
    """Medians of a method over all turns; None if the median turn never came to the target."""

    method: str
    seconds_to_target: float | None
    least: float | None
    most: float | None
    steps: float | None
    final_percent: float
    turns: Sequence[float | None]


def bench_accuracy(
    preset: str, settings: Sequence[str], target: float, steps: int, every: int, repeats: int, say: Say
) -> list[AccuracyRow]:
    """Train both methods in turns, every turn with a seed of its own; a row for each method.

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

    def measure(method: str, turn: int) -> Reached:
        config = load_config(preset, None, [*settings, *fixed, f"method={method}", f"seed={turn}"])
        return until(target, ray_records(config))

    def told(reached: Reached) -> str:
        when = f"after {reached.seconds:.1f} s, {reached.step} steps" if isfinite(reached.seconds) else "never"
        return f"{target:.0%} {when}; {reached.final:.2%} at the end"

    with ray_session(None):
        turns = alternate({method: partial(measure, method) for method in METHODS}, repeats, say, told)
    return [_row(method, each) for method, each in turns.items()]


def until(target: float, records: Sequence[Record]) -> Reached:
    """When the run of these records came to the target."""
    measured = [each for each in of_kind(records, Evaluated) if (each.split, each.sampler) == ("test", "mean")]
    final = max(measured, key=lambda each: each.step).accuracy
    good = [each.step for each in measured if each.accuracy >= target]
    if not good:
        return Reached(inf, inf, final)
    step = min(good)
    return Reached(busy_seconds_to([step], of_kind(records, RoundDone))[step], step, final)


def _row(method: str, turns: Sequence[Reached]) -> AccuracyRow:
    seconds = Spread([each.seconds for each in turns])
    return AccuracyRow(
        method=method,
        seconds_to_target=_finite(seconds.median),
        least=_finite(seconds.least),
        most=_finite(seconds.most),
        steps=_finite(Spread([each.step for each in turns]).median),
        final_percent=100 * Spread([each.final for each in turns]).median,
        turns=[_finite(each) for each in seconds.turns],
    )


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
