"""Makes the actors of one run."""

from collections.abc import Callable

import ray

from noprop_dist.data.dataset import DataSet
from noprop_dist.distributed.block_worker import BlockWorker
from noprop_dist.distributed.classifier_worker import ClassifierWorker
from noprop_dist.distributed.evaluator import Evaluator
from noprop_dist.distributed.fleet import BLOCK_WORKER, ActorHandle
from noprop_dist.distributed.placement import Placement
from noprop_dist.training.setup import RunSetup

ONCE = {"max_restarts": 0, "max_task_retries": 0}
"""An optimiser step is not idempotent, so Ray may neither restart an actor nor retry a call by itself."""
WITH_CONTROL = {"concurrency_groups": {"control": 1}}
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
    """

    def __init__(self, setup: RunSetup, data: DataSet, directory: str, placement: Placement) -> None:
        self._setup = setup
        self._inputs, self._held_out = ray.put(data.train.inputs), ray.put(data.held_out)
        self._directory = directory
        self._side = {"num_cpus": 0, "num_gpus": placement.side_gpus, **ONCE}

    def block_worker(self, cpus: float, gpus: float) -> Callable[[], ActorHandle]:
        """A function that makes a block worker with so many cores and GPUs."""
        options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD", **ONCE}
        actor = ray.remote(**WITH_CONTROL, **options)(BlockWorker)
        return lambda: actor.remote(self._setup, self._inputs)

    def classifier_worker(self) -> ActorHandle:
        """Make the classifier worker."""
        return ray.remote(**WITH_CONTROL, **self._side)(ClassifierWorker).remote(self._setup)

    def evaluator(self) -> ActorHandle:
        """Make the evaluator."""
        return ray.remote(**self._side)(Evaluator).remote(self._setup, self._held_out, self._directory)


def block_worker_name(number: int) -> str:
    """What people call the n-th block worker, from 1."""
    return f"{BLOCK_WORKER} {number}"
