"""A recording on a GPU: a CUDA graph, with a generator of its own for dropout."""

from collections.abc import Callable

import torch
from torch import Tensor

from noprop_dist.training.execution import CallByCall, Execution, Recorded, Replay


def execution_on(device: torch.device, recorded: bool) -> Execution:
    """Steps on a device: recorded, if that is wanted and it is a GPU, or call by call."""
    call_by_call = CallByCall(device)
    if not (recorded and device.type == "cuda"):
        return call_by_call
    return Recorded(call_by_call, lambda compute: record_cuda_graph(compute, device))


def record_cuda_graph(compute: Callable[[], Tensor], device: torch.device) -> tuple[Replay, Tensor]:
    """Record what `compute` asks of this thread's current stream, which may not be the default one.

    A graph reads the seed of its dropout from memory of the generator that it was recorded with. Graphs of several
    blocks run beside each other, so each has a generator to itself, or one would overwrite the seed of another.

    Args:
        compute: touches no other device, reads no value, and takes every input from memory that stays where it is.
        device: a GPU.

    Raises:
        RuntimeError: it does something that cannot be recorded.
    """
    shared = torch.cuda.default_generators[device.index or 0]
    own, before = torch.Generator(device), shared.graphsafe_get_state()
    graph = torch.cuda.CUDAGraph()
    shared.graphsafe_set_state(own)
    try:
        # Threads of other blocks may go on meanwhile: what they ask for is none of this recording.
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(device), capture_error_mode="thread_local"):
            losses = compute()
    finally:
        shared.graphsafe_set_state(before)

    def replay(seed: int) -> None:
        own.manual_seed(seed)
        graph.replay()

    return replay, losses
