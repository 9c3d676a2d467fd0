"""Where a process computes, and what makes its bits repeatable."""

import os

import torch

from noprop_dist.errors import UserError


def choose_device(wanted: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises:
        UserError: `cuda` is wanted and there is no GPU.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.device=cuda: this process sees no GPU; use engine.device=cpu or auto")
    use_gpu = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    return torch.device("cuda", 0) if use_gpu else torch.device("cpu")


def fix_bits(device: torch.device, threads: int) -> None:
    """Fix all that changes the bits of a result in this process: the number of threads, and kernels on a GPU."""
    torch.set_num_threads(threads)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(True)
