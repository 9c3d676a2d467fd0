"""Names the block workers of a run: as many as the cluster has room for at its start, and more when it grows."""

import time

from noprop_dist.config.schema import RunConfig
from noprop_dist.engines.core.placement import Placement, place_run
from noprop_dist.engines.ray.actors import ActorMaker, block_worker_name
from noprop_dist.engines.ray.cluster import cluster_resources
from noprop_dist.engines.ray.fleet import Fleet
from noprop_dist.errors import TrainingError

LOOK_SECONDS = 5.0


class Recruiter:
    """One use, in one loop. A block comes to a new worker as to any idle one: `Roster.plan_moves` sees to it.

    Args:
        config: of the run.
        fleet: that the workers are added to.
        maker: of their actors.
        placement: at the start of the run.
    """

    def __init__(self, config: RunConfig, fleet: Fleet, maker: ActorMaker, placement: Placement) -> None:
        # A run stays on the kind of device that it began on: another kind computes other bits.
        device = "cuda" if placement.on_gpu else "cpu"
        self._engine = config.engine.model_copy(update={"device": device})
        self._config = config.model_copy(update={"engine": self._engine})
        self._fleet = fleet
        self._maker = maker
        self._employed = 0
        self._begun = self._looked = time.monotonic()
        self._employ(placement)

    def look(self) -> list[str]:
        """Add workers where the cluster has more room than workers were named for; news of it.

        Raises:
            TrainingError: not one worker has started in time.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return []
        self._looked = now
        self._check_start(now)
        resources = cluster_resources()
        if self._engine.device == "cuda" and resources.gpus < 1:
            return []  # all GPUs are lost; the workers' names wait for them
        before = self._employed
        placement = place_run(self._config, resources)
        self._employ(placement)
        return [f"the cluster has grown: {placement.reason}"] if self._employed > before else []

    def _employ(self, placement: Placement) -> None:
        for place_ in placement.workers[self._employed :]:
            self._employed += 1
            create = self._maker.block_worker(place_.cpus, place_.gpus, placement.lanes)
            self._fleet.add(block_worker_name(self._employed), create, placement.lanes)

    def _check_start(self, now: float) -> None:
        late = now - self._begun > self._engine.start_timeout_seconds
        if late and not any(worker.heard for worker in self._fleet.block_workers()):
            raise TrainingError(
                f"no block worker started within engine.start_timeout_seconds={self._engine.start_timeout_seconds:g}: "
                "other runs may hold the cluster's room, or a worker's process cannot start"
            )
