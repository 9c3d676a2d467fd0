"""Who draws the batches: the coordinator, or the workers if one process could not keep up. The bits are the same."""

from dataclasses import dataclass

from noprop_dist.engines.core.placement import Placement
from noprop_dist.run_plan import RunPlan

LARGE_BATCH_BYTES = 2**16
"""Of z in one step: thirteen times a one-hot batch of digits, whose drawing takes 36 µs; and it all has to be sent."""
MOST_GPUS_SERVED = 4
"""The coordinator draws some 25,000 batches of one-hot z a second; a GPU may train thousands of block-steps."""


@dataclass(frozen=True)
class Drawing:
    """Who draws the rounds, and why."""

    by_coordinator: bool
    reason: str


def who_draws(plan: RunPlan, placement: Placement) -> Drawing:
    """Decide by `engine.sampling`; if that is auto, by the size of z, the GPUs, and whether the coordinator has a core.

    If workers have every core, each millisecond of the coordinator is taken from one of them, and sending a batch takes
    longer than drawing it (docs/measurements.md).
    """
    size = 4 * plan.config.training.batch_size * plan.embedding_dim
    match plan.config.engine.sampling:
        case "coordinator":
            return Drawing(True, "z is drawn by the coordinator, as asked for")
        case "worker":
            return Drawing(False, "z is drawn by the workers, as asked for")
    if size > LARGE_BATCH_BYTES:
        return Drawing(False, f"z is drawn by the workers: it takes {size:,} bytes a step")
    if placement.on_gpu and len(placement.workers) > MOST_GPUS_SERVED:
        return Drawing(False, f"z is drawn by the workers: one process cannot keep up with {len(placement.workers)}")
    if placement.spare_cpus < 1:
        return Drawing(False, "z is drawn by the workers: the coordinator has no core to itself")
    return Drawing(True, "z is drawn by the coordinator")
