"""How the work of a step reaches the device: call by call, or recorded once and then replayed as a whole.

The small networks of NoProp take a GPU less time than it takes Python to ask for their hundred kernels. A recorded
step is one request. Both give the same bits: the kernels are the same, in the same order.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from noprop_dist.torch_random import ONE_AT_A_TIME, seeded

Compute = Callable[..., Tensor]
"""(x, labels, z) → losses. Works on tensors alone: it never reads one, and leaves nothing behind but their values."""
Replay = Callable[[int], None]
"""Does what was recorded once more, with dropout of a seed."""
Record = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
"""Records without doing; the replay, and the tensor that every replay writes its result into."""

STEPS_BEFORE_RECORDING = 3
"""Done call by call: they make what is made only once (optimiser state, handles and workspaces of libraries)."""


class Execution(Protocol):
    """One stage's way of doing its steps."""

    def __call__(self, compute: Compute, inputs: Sequence[Tensor], seed: int) -> Tensor:
        """Do one step.

        Args:
            compute: the same at every step.
            inputs: of the same shapes at every step; only looked at during the call.
            seed: of dropout.

        Returns:
            What `compute` does: a new tensor.
        """

    def restart(self) -> None:
        """Tensors that `compute` works on were replaced by others."""


class CallByCall:
    """Every operation is asked for when its turn comes.

    Args:
        device: of the generator that dropout draws from.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, compute: Compute, inputs: Sequence[Tensor], seed: int) -> Tensor:
        """See `Execution`."""
        # Copies lie where torch puts them: which kernel is taken, and so a result's bits, may depend on alignment.
        own = [each.clone() for each in inputs]
        with seeded(seed, self._device):
            return compute(*own)

    def restart(self) -> None:
        """Nothing is kept."""


class Recorded:
    """A few steps call by call, then one recording, replayed for every other step.

    Args:
        first: does the steps before the recording.
        record: makes it.
    """

    def __init__(self, first: Execution, record: Record) -> None:
        self._first = first
        self._record = record
        self.restart()

    def restart(self) -> None:
        """Forget the recording."""
        self._steps_left = STEPS_BEFORE_RECORDING
        self._replay: Replay | None = None
        self._inputs: list[Tensor] = []
        self._losses = torch.empty(0)

    def __call__(self, compute: Compute, inputs: Sequence[Tensor], seed: int) -> Tensor:
        """See `Execution`."""
        if self._steps_left:
            self._steps_left -= 1
            return self._first(compute, inputs, seed)
        if self._replay is None:
            own = self._inputs = [each.clone() for each in inputs]
            with ONE_AT_A_TIME:
                self._replay, self._losses = self._record(lambda: compute(*own))
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._replay(seed)
        return self._losses.clone()
