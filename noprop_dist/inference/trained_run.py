"""A trained run, ready to be looked at."""

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
        network: on the device where it computes.
        warnings: of damaged checkpoints that were passed over.
    """

    directory: RunDirectory
    plan: RunPlan
    network: NoPropNetwork
    warnings: tuple[str, ...] = ()
