"""Room on the cluster for all block workers of a run: all of it or none."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from noprop_dist.configuration.settings import RunConfig
from noprop_dist.distributed.cluster import cluster_resources
from noprop_dist.distributed.placement import Placement, place
from noprop_dist.errors import TrainingError


@dataclass(frozen=True)
class Room:
    """What a run has reserved: bundle i of the group is for worker i of the placement."""

    placement: Placement
    group: PlacementGroup


@contextmanager
def reserved_room(config: RunConfig) -> Iterator[Room]:
    """Room for a run's block workers, given back at the end of the `with`.

    Without such a reservation two runs could each get half of a cluster and wait for the other half for ever. It
    belongs to the driver, so that it outlives a coordinator and never the job.

    Raises:
        UserError: GPUs are asked for and there are none.
        TrainingError: the cluster has no such room within `engine.start_timeout_seconds`.
    """
    placement = place(config.blocks.trained(), config.engine, cluster_resources())
    each, timeout = placement.workers[0], config.engine.start_timeout_seconds
    bundle = {"CPU": each.cpus, "GPU": each.gpus} if each.gpus else {"CPU": each.cpus}
    group = placement_group([bundle] * len(placement.workers), strategy="SPREAD")
    try:
        if not group.wait(timeout):
            raise TrainingError(
                f"the cluster had no room for {len(placement.workers)} block worker(s) of {each.cpus:g} core(s) and "
                f"{each.gpus:g} GPU(s) within engine.start_timeout_seconds={timeout:g}; other runs may hold it, "
                "or ask for fewer with engine.workers"
            )
        yield Room(placement, group)
    finally:
        remove_placement_group(group)
