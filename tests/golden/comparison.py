"""What a run is pinned by, and how far two runs are apart. Knows nothing of the package."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

# Measured by runs with other instruction sets (AVX2, SSE), another layout in memory and two threads: rounding moves the
# losses of `digits-*`, which Adam trains, by 1.1e-3 at most, those that SGD trains by 1e-6 to 6e-5, and probabilities
# by 5e-3 at most. η changed by 1 % moves losses by 1e-2 and more; see test_sensitivity.py for other changes.
# `paper` is no part of this with another layout: its dropout then drops other elements.
LOSS_TOLERANCE = 2e-3
"""Relative."""
PROBABILITY_TOLERANCE = 1e-2
"""Absolute."""


@dataclass
class Trajectory:
    """Means over each round: what was minimised, and the same without its weight in the objective."""

    losses: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def add(self, loss: float, error: float) -> None:
        self.losses.append(float(f"{loss:.7g}"))
        self.errors.append(float(f"{error:.7g}"))


@dataclass
class Decisions:
    """For each image the class, its probability, and how far the second most probable class is behind."""

    classes: list[int]
    probabilities: list[float]
    margins: list[float]

    @classmethod
    def of(cls, probabilities: np.ndarray) -> Self:
        """From probabilities of all classes, (images, classes)."""
        second, first = np.sort(probabilities.astype(np.float64), axis=1)[:, -2:].T
        return cls(
            probabilities.argmax(axis=1).tolist(), np.round(first, 5).tolist(), np.round(first - second, 5).tolist()
        )


@dataclass
class Outcome:
    """Losses and fingerprints by stage, decisions by sampler."""

    losses: dict[str, Trajectory]
    decisions: dict[str, Decisions]
    fingerprints: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Without the fingerprints, which hold for one kind of machine only."""
        return {key: value for key, value in asdict(self).items() if key != "fingerprints"}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        losses = {stage: Trajectory(**each) for stage, each in values["losses"].items()}
        return cls(losses, {sampler: Decisions(**each) for sampler, each in values["decisions"].items()})


def differences(pinned: Outcome, now: Outcome) -> list[str]:
    """One line for each way in which a run is not the pinned one any more; fingerprints are not looked at."""
    return [*_loss_differences(pinned, now), *_decision_differences(pinned, now)]


def largest_loss_change(pinned: Outcome, now: Outcome) -> float:
    """Relative, over all losses and errors of both runs; infinite if these are not the same stages and rounds."""
    if shape(pinned) != shape(now):
        return float("inf")
    changes = (_relative(before, after) for _, before, after in _pairs(pinned, now))
    return max(float(change.max()) for change in changes)


def changed_decisions(pinned: Outcome, now: Outcome) -> int:
    return sum(
        before != after
        for sampler, decisions in pinned.decisions.items()
        for before, after in zip(decisions.classes, now.decisions[sampler].classes, strict=True)
    )


def largest_probability_change(pinned: Outcome, now: Outcome) -> float:
    """Over all images that are still taken for the same class."""
    return max(
        abs(before - after)
        for sampler, decisions in pinned.decisions.items()
        for before, after, label, label_now in zip(
            decisions.probabilities,
            now.decisions[sampler].probabilities,
            decisions.classes,
            now.decisions[sampler].classes,
            strict=True,
        )
        if label == label_now
    )


def shape(outcome: Outcome) -> dict[str, int]:
    """Rounds of each stage."""
    return {stage: len(trajectory.losses) for stage, trajectory in outcome.losses.items()}


def _loss_differences(pinned: Outcome, now: Outcome) -> Iterator[str]:
    if shape(pinned) != shape(now):
        yield f"rounds of each stage: {shape(now)}, pinned are {shape(pinned)}"
        return
    for name, before, after in _pairs(pinned, now):
        change = _relative(before, after)
        if not change.max() <= LOSS_TOLERANCE:  # NaN is a difference, too
            worst = int(change.argmax())
            yield f"{name} of round {worst}: {after[worst]:.7g}, pinned is {before[worst]:.7g} ({change[worst]:.1e})"


def _decision_differences(pinned: Outcome, now: Outcome) -> Iterator[str]:
    for sampler, before in pinned.decisions.items():
        after = now.decisions[sampler]
        for image, (label, label_now) in enumerate(zip(before.classes, after.classes, strict=True)):
            probability, probability_now = before.probabilities[image], after.probabilities[image]
            # Rounding may decide between two classes that are equally probable.
            tie = before.margins[image] <= PROBABILITY_TOLERANCE
            if (label != label_now and not tie) or not abs(probability - probability_now) <= PROBABILITY_TOLERANCE:
                yield (
                    f"image {image}, sampler {sampler}: class {label_now} with {probability_now:.5f}, "
                    f"pinned is class {label} with {probability:.5f}"
                )


def _pairs(pinned: Outcome, now: Outcome) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for stage, trajectory in pinned.losses.items():
        for name in ("losses", "errors"):
            yield (
                f"{stage}, {name}",
                np.array(getattr(trajectory, name)),
                np.array(getattr(now.losses[stage], name)),
            )


def _relative(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.abs(after - before) / np.abs(before)
