"""How many processes train the baseline, and what each of them takes; knows no Ray."""

from dataclasses import dataclass

from noprop_dist.config.schema import RunConfig
from noprop_dist.config.sections.engine import WorkerRange
from noprop_dist.engines.core.placement import Resources, check_sharing, ray_share, room, uses_gpus
from noprop_dist.errors import UserError


@dataclass(frozen=True)
class Processes:
    """The processes that train the network together, each on its share of every batch.

    Attributes:
        count: of them.
        cpus: cores that each asks for.
        on_gpu: whether each asks for a GPU, too.
    """

    count: int
    cpus: float
    on_gpu: bool

    def __str__(self) -> str:
        gpu = " and a GPU" if self.on_gpu else ""
        return f"{self.count} process(es), each with {self.cpus:g} core(s){gpu}"


def place_baseline(config: RunConfig, resources: Resources, *, may_grow: bool = True) -> Processes:
    """The processes of a run of the baseline.

    Args:
        config: of the run.
        resources: that there are now.
        may_grow: whether GPUs that are not there may still come, as on a cluster.

    Raises:
        UserError: the batch cannot be shared out evenly, or the machines have no room for so many.
    """
    engine, batch_size = config.engine, config.training.batch_size
    on_gpu, most = uses_gpus(engine, resources), min(room(engine, resources), batch_size)
    given = engine.workers
    if isinstance(given, WorkerRange):
        raise UserError(
            "engine.workers={min, max}: method=backprop keeps its number of processes, which its bits depend on; "
            "name a number"
        )
    count = next(n for n in range(most, 0, -1) if batch_size % n == 0) if given == "auto" else given
    check_sharing(config, count, resources)
    if batch_size % count:
        more = f"; there are {count} processes for {batch_size} samples" if count > batch_size else ""
        raise UserError(
            f"engine.workers={count}: does not divide training.batch_size={batch_size}, "
            f"which method=backprop shares out evenly{more}"
        )
    if on_gpu and count > resources.gpus and not may_grow:
        raise UserError(
            f"engine.workers={count}: method=backprop takes a GPU for each process, there are {resources.gpus:g} here"
        )
    cpus = min(float(engine.threads_per_worker), resources.cpus / count)
    return Processes(count, ray_share(cpus), on_gpu)
