"""Finds losses, gradients and weights that are not finite, and names the step and the likely cause."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTITIES = ("loss", "error", "gradient norm")
ADVICE = "most likely the learning rate is too high for it"


class NonFiniteError(ArithmeticError):
    """Loss, gradient or weights of a stage are not finite any more.

    Attributes:
        step: 0-based step at which it was seen.
    """

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"at step {step} {what}")
        self.step = step

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.step, str(self))


def _unpickled(step: int, text: str) -> NonFiniteError:
    return NonFiniteError(step, text.removeprefix(f"at step {step} "))


def check_losses(first_step: int, values: Sequence[Sequence[float]]) -> None:
    """Check the figures of consecutive steps.

    Args:
        first_step: 0-based.
        values: (loss, error, gradient norm) of each step.

    Raises:
        NonFiniteError: names the first step at which one of them is not finite.
    """
    for k, row in enumerate(values):
        bad = [
            f"the {name} became {value}"
            for name, value in zip(QUANTITIES, row, strict=True)
            if not math.isfinite(value)
        ]
        if not bad:
            continue
        if first_step + k == 0:
            cause = "at its very first step, so the inputs or the initial weights are to blame"
        elif k == 0:
            cause = ADVICE
        else:
            cause = f"the gradient's norm was {values[k - 1][2]:.3g} the step before and {values[0][2]:.3g} at step "
            cause += f"{first_step}: {ADVICE}"
        raise NonFiniteError(first_step + k, f"{bad[0]} ({cause})")


def check_weights(step: int, weights: Mapping[str, NDArray[Any]]) -> None:
    """Check weights after `step` steps.

    Raises:
        NonFiniteError: names the first tensor with a value that is not finite.
    """
    for name, array in weights.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NonFiniteError(step, f"the weights {name} were no longer finite ({ADVICE})")
