"""The device that a user names."""

import torch

from noprop_dist.errors import UserError


def choose_device(wanted: str | torch.device, field: str = "device") -> torch.device:
    """The device of this name.

    Args:
        wanted: `cpu` (or, as torch has it, `cpu:0`), `cuda`, `cuda:1` …, or `auto`: a GPU if there is one.
        field: in which the user named it.

    Raises:
        UserError: there is no such device, or this process does not see it.
    """
    name, gpus = str(wanted), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name in ("cpu", "cpu:0") or (name == "auto" and not gpus):
        return torch.device("cpu")
    kind, colon, number = name.partition(":")
    if name != "auto" and (kind != "cuda" or (colon and not (number.isdecimal() and len(number) < 4))):
        raise UserError(f"{field}={name}: is no device; allowed are auto, cpu, cuda, and cuda:0, cuda:1 …")
    if int(number or 0) >= gpus:
        seen = f"{gpus} GPU(s), numbered from 0" if gpus else "no GPU"
        raise UserError(f"{field}={name}: this process sees {seen}; use {field}=cpu or auto")
    return torch.device("cuda", int(number or 0))
