"""What a caller has set of torch for its process or thread: neither heeded nor changed where noprop_dist computes."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

ALL_CORES = os.cpu_count() or 1
Switch = tuple[Callable[[], Any], Callable[[Any], Any], Any]
"""What reads a setting of the process, what sets it, and the value that a new process has."""


def _attribute(owner: Any, name: str, value: Any) -> Switch:
    return partial(getattr, owner, name), partial(setattr, owner, name), value


_SWITCHES: tuple[Switch, ...] = (
    (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 0),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    _attribute(torch.backends.cuda.matmul, "allow_tf32", False),
    _attribute(torch.backends.cudnn, "allow_tf32", True),
    _attribute(torch.backends.cudnn, "benchmark", False),
    _attribute(torch.utils.deterministic, "fill_uninitialized_memory", True),
)


@contextmanager
def as_in_a_new_process(threads: int | None = None) -> Iterator[None]:
    """A `with`, or a decorator, in which torch computes as in a new process. Afterwards all is as the caller had it.

    That is the default dtype and device, autocast, gradient and inference modes, deterministic algorithms, the
    precision of products, the number of threads, and where the random generators of torch and Python stand. Those go
    on from the caller's state, for nothing that noprop_dist draws depends on it.

    Args:
        threads: of the CPU; the caller's number without it.
    """
    with ExitStack() as left:
        for switch in _SWITCHES:
            left.enter_context(_switched(*switch))
        left.callback(torch.set_num_threads, torch.get_num_threads())
        if threads is not None:
            torch.set_num_threads(threads)
        left.callback(random.setstate, random.getstate())
        left.enter_context(_cuda_as_it_was())
        left.enter_context(torch.inference_mode(False))
        left.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                left.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            left.enter_context(torch.device("cpu"))
        yield


@contextmanager
def _switched(read: Callable[[], Any], write: Callable[[Any], Any], value: Any) -> Iterator[None]:
    try:
        before = read()
    except RuntimeError:  # torch cannot say: the caller has set it by the names that torch 2.9 gave it
        yield
        return
    if before != value:
        write(value)
    try:
        yield
    finally:
        if read() != before:
            write(before)


@contextmanager
def _cuda_as_it_was() -> Iterator[None]:
    """Put the generators, of CPU and GPUs, and the current stream back afterwards. Does not start to use a GPU."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    stream = torch.cuda.current_stream() if used else None
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if used else []):
        try:
            yield
        finally:
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.set_stream(stream or torch.cuda.default_stream())
