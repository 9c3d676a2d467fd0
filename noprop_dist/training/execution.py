"""How the work of a step reaches the device: call by call, or captured once and then replayed as a whole.

A GPU needs less time for the small networks of NoProp than Python needs to launch their hundred kernels. A captured
step, a CUDA graph, is one launch. Both ways give the same bits: the kernels are the same, in the same order.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from noprop_dist.torch_random import ONE_AT_A_TIME, seeded

Compute = Callable[..., Tensor]
"""(x, labels, z) → losses. Works on tensors alone: it never reads one, and leaves nothing behind but their values."""
Replay = Callable[[int], None]
"""Does once more what was captured, with dropout from a seed."""
Capture = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
"""Captures a computation without doing it. Returns the replay, and the tensor that every replay writes into."""

STEPS_BEFORE_CAPTURE = 3
"""Steps done call by call: they make what is made once (optimiser state, handles and workspaces of libraries)."""


class Execution(Protocol):
    """How the steps of one stage are run."""

    def __call__(self, compute: Compute, inputs: Sequence[Tensor], seed: int) -> Tensor:
        """Do one step.

        Args:
            compute: the same at every step.
            inputs: of the same shapes at every step; read only during the call.
            seed: of dropout.

        Returns:
            What `compute` does: a new tensor.
        """

    def restart(self) -> None:
        """Forget the tensors that `compute` worked on: they were replaced by others."""


class CallByCall:
    """Launches every operation of every step.

    Args:
        device: of the generator that dropout draws from.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, compute: Compute, inputs: Sequence[Tensor], seed: int) -> Tensor:
        """See `Execution`."""
        # torch aligns copies itself: the choice of a kernel, and so the bits of a result, may depend on alignment.
        own = [each.clone() for each in inputs]
        with seeded(seed, self._device):
            return compute(*own)

    def restart(self) -> None:
        """Do nothing: no tensor is kept from one step to the next."""


class Captured:
    """A few steps call by call, then one capture, replayed for every other step.

    Args:
        first: does the steps before the capture.
        capture: makes it.
    """

    def __init__(self, first: Execution, capture: Capture) -> None:
        self._first = first
        self._capture = capture
        self.restart()

    def restart(self) -> None:
        """Forget the capture."""
        self._steps_left = STEPS_BEFORE_CAPTURE
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
                self._replay, self._losses = self._capture(lambda: compute(*own))
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._replay(seed)
        return self._losses.clone()


def execution_on(device: torch.device, captured: bool) -> Execution:
    """Steps on a device: captured, if that is wanted and it is a GPU, or call by call."""
    call_by_call = CallByCall(device)
    if not (captured and device.type == "cuda"):
        return call_by_call
    return Captured(call_by_call, lambda compute: capture_cuda_graph(compute, device))


def capture_cuda_graph(compute: Callable[[], Tensor], device: torch.device) -> tuple[Replay, Tensor]:
    """Capture what `compute` launches on this thread's current stream, which must not be the default one.

    A graph reads the seed of its dropout from memory of the generator that it was captured with. Graphs of several
    blocks run beside each other, so each has a generator to itself, or one would overwrite the seed of another.

    Args:
        compute: touches no other device, reads no value, and takes every input from memory that stays where it is.
        device: a GPU.

    Raises:
        RuntimeError: it does something that cannot be captured.
    """
    shared = torch.cuda.default_generators[device.index or 0]
    own, before = torch.Generator(device), shared.graphsafe_get_state()
    graph = torch.cuda.CUDAGraph()
    shared.graphsafe_set_state(own)
    try:
        # Threads of other blocks may go on meanwhile: what they launch is not part of this graph.
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(device), capture_error_mode="thread_local"):
            losses = compute()
    finally:
        shared.graphsafe_set_state(before)

    def replay(seed: int) -> None:
        own.manual_seed(seed)
        graph.replay()

    return replay, losses
