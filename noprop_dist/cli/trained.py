"""Loading a trained run for the commands that look at it."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from rich.console import Console

from noprop_dist.errors import UserError
from noprop_dist.inference.network import NoPropNetwork, Sampler
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.device import choose_device
from noprop_dist.training.setup import RunSetup


@dataclass(frozen=True)
class TrainedRun:
    """A run directory and the network of its last checkpoint."""

    directory: RunDirectory
    setup: RunSetup
    network: NoPropNetwork


def load_run(run_dir: str) -> TrainedRun:
    """Load the last checkpoint onto a GPU where there is one, else onto all cores.

    Raises:
        UserError: there is no checkpoint, or it is damaged or incomplete.
    """
    directory = RunDirectory(run_dir)
    setup = RunSetup(directory.config(), directory.facts())
    torch.set_num_threads(os.cpu_count() or 1)
    snapshots, warnings = directory.checkpoints.load_last_whole()
    for warning in warnings:
        Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(
            f"{warning}; the checkpoint before it is used", style="yellow"
        )
    network = setup.network(snapshots, choose_device("auto"))
    return TrainedRun(directory, setup, network)


def working(note: str) -> AbstractContextManager[object]:
    """A spinner on standard error for what takes a while; nothing where that is no terminal."""
    return Console(stderr=True).status(note)


def checked_sampler(sampler: str, passes: int) -> Sampler:
    """The options `--sampler` and `--passes`.

    Raises:
        UserError: they are not allowed.
    """
    if passes < 1:
        raise UserError(f"--passes {passes}: must be at least 1")
    if sampler == "mean":
        return "mean"
    if sampler == "stochastic":
        return "stochastic"
    raise UserError(f"--sampler {sampler}: allowed are stochastic and mean")
