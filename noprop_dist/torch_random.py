"""torch's own generators, one for each device of a process. Whoever seeds one keeps it until the draws are done."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

ONE_AT_A_TIME = threading.Lock()
"""Threads that train different blocks share the generators, and each seeds them anew before it draws."""


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """A `with` in which all that this thread draws on a device is a function of the seed."""
    with ONE_AT_A_TIME:
        # torch.manual_seed would also queue a seed for every CUDA device that is not yet in use, at each step.
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def seeded_aside(seed: int) -> Iterator[None]:
    """The same on the CPU; afterwards its generator goes on as if nothing had been drawn."""
    with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
