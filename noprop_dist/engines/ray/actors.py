"""Makes the actors of one run."""

from collections.abc import Callable
from typing import Any

import ray

from noprop_dist.data.dataset import DataSet
from noprop_dist.engines.core.placement import Placement
from noprop_dist.engines.ray.block_worker import BlockWorker
from noprop_dist.engines.ray.classifier_worker import ClassifierWorker
from noprop_dist.engines.ray.evaluator import Evaluator
from noprop_dist.engines.ray.fleet import BLOCK_WORKER
from noprop_dist.engines.ray.replica_worker import BlockGroup
from noprop_dist.engines.ray.worker import ActorHandle, lane_name
from noprop_dist.training.setup import RunSetup

ONCE = {"max_restarts": 0, "max_task_retries": 0}
"""An optimiser step is not idempotent, so Ray may neither restart an actor nor retry a call by itself."""
CONTROL = {"control": 1}
"""`stop` is answered while a round is trained."""

CLASSIFIER_WORKER = "classifier worker"
EVALUATOR = "evaluator"


class ActorMaker:
    """Makes actors, the same for every incarnation; the data set lies in the object store once, for all of them.

    Args:
        setup: of the run.
        data: of the run.
        directory: of the run.
        placement: what each actor asks of the cluster.
        block_worker: the class of block workers, made with (setup, inputs, labels).
        classifier_worker: the class of the classifier worker, made with (setup, labels).
    """

    def __init__(
        self,
        setup: RunSetup,
        data: DataSet,
        directory: str,
        placement: Placement,
        block_worker: type[Any] = BlockWorker,
        classifier_worker: type[Any] = ClassifierWorker,
    ) -> None:
        self._setup = setup
        self._inputs, self._labels = ray.put(data.train.inputs), ray.put(data.train.labels)
        self._held_out = ray.put(data.held_out)
        self._block_worker, self._classifier_worker = block_worker, classifier_worker
        self._directory = directory
        self._side = {"num_cpus": 0, "num_gpus": placement.side_gpus, **ONCE}

    def block_worker(self, cpus: float, gpus: float, lanes: int) -> Callable[[], ActorHandle]:
        """A function that makes a block worker.

        Args:
            cpus: cores that each of its processes asks for.
            gpus: likewise.
            lanes: blocks that it trains at the same time.
        """
        side_by_side = {lane_name(number): 1 for number in range(lanes)} if lanes > 1 else {}
        groups = {"concurrency_groups": CONTROL | side_by_side}
        options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD", **ONCE}
        if self._setup.config.training.replicas_per_block > 1:
            group = ray.remote(**groups, **options)(BlockGroup)
            return lambda: group.remote(self._setup, [self._inputs, self._labels], options)
        actor = ray.remote(**groups, **options)(self._block_worker)
        return lambda: actor.remote(self._setup, self._inputs, self._labels)

    def classifier_worker(self) -> ActorHandle:
        """Make the classifier worker."""
        actor = ray.remote(concurrency_groups=CONTROL, **self._side)(self._classifier_worker)
        return actor.remote(self._setup, self._labels)

    def evaluator(self) -> ActorHandle:
        """Make the evaluator."""
        return ray.remote(**self._side)(Evaluator).remote(self._setup, self._held_out, self._directory)


def block_worker_name(number: int) -> str:
    """What people call the n-th block worker, from 1."""
    return f"{BLOCK_WORKER} {number}"
