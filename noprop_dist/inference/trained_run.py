"""A trained run, loaded: its directory and its network."""

from dataclasses import dataclass

from noprop_dist.inference.network import NoPropNetwork
from noprop_dist.plan import RunPlan
from noprop_dist.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class TrainedRun:
    """A run directory and the network of its last checkpoint.

    Attributes:
        directory: of the run.
        plan: of the run.
        network: of the last undamaged checkpoint, on the device that it computes on.
        warnings: of damaged checkpoints after it.
    """

    directory: RunDirectory
    plan: RunPlan
    network: NoPropNetwork
    warnings: tuple[str, ...] = ()
