"""Makes a process ready to compute: what makes its bits repeatable, and how it keeps freed memory."""

import ctypes
import os
import platform
import resource

import torch

from noprop_dist.config.schema import Precision
from noprop_dist.torch_device import choose_device

# glibc's mallopt (malloc.h). 32 MiB is the largest threshold that it takes for mmap.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -3, -4, -8
KEEP_FREED_BYTES, LARGEST_HEAP_BLOCK_BYTES = 2**30, 32 * 2**20
HEAP_BYTES = 64 * 2**20
"""An arena other than the main one is made of pieces of this size (HEAP_MAX_SIZE); it gives free ones back unless the
padding is as large."""


def start_computing(wanted: str, threads: int, precision: Precision = "float32") -> torch.device:
    """Make this process ready to train: choose its device and fix all that changes the bits of a result.

    Args:
        wanted: `auto`, `cpu` or `cuda`.
        threads: CPU threads; a result's bits depend on their number.
        precision: whether a GPU may multiply in TF32.

    Raises:
        UserError: `cuda` is wanted and there is no GPU.
    """
    device = choose_device(wanted, "engine.device")
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.use_deterministic_algorithms(True)
        # Else every new tensor costs one more kernel, which fills it with NaN.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    else:
        keep_freed_memory()
    start_thread(device, threads)
    return device


def start_thread(device: torch.device, threads: int) -> None:
    """Make this thread ready to compute: its number of CPU threads and, on a GPU, a CUDA stream of its own.

    Work of different streams runs side by side, and only work on a stream other than the default one can be captured.
    """
    torch.set_num_threads(threads)
    if device.type == "cuda" and torch.cuda.current_stream(device) == torch.cuda.default_stream(device):
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def keep_freed_memory(*, of_any_size: bool = False) -> None:
    """Let glibc keep what a step frees for the next one; elsewhere this does nothing.

    By default it gives large blocks back at once and the system clears them anew at every step: 8 % of a block-step
    of the digits network (docs/measurements.md).

    Args:
        of_any_size: keep blocks above 32 MiB, too, as an evaluation's batch of 500 images has them. A process that
            trains does not: its snapshots and samples are large, and what it frees of them is for others.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)  # no further arenas; Ray's threads have some already, and training may get one
        mallopt(M_TRIM_THRESHOLD, KEEP_FREED_BYTES)  # for the main arena
        mallopt(M_TOP_PAD, HEAP_BYTES)  # for the other arenas
        mallopt(M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK_BYTES)
        if of_any_size:
            mallopt(M_MMAP_MAX, 0)


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory that this process has used: torch's part of the GPU's memory, or else of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def processor(device: torch.device) -> str:
    """What a process computes with; on another one the same steps may have other bits."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
