"""Creates the actors of one run, and knows which of them holds which stage."""

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from noprop_dist.data.dataset import DataSet
from noprop_dist.distributed.block_worker import BlockWorker
from noprop_dist.distributed.classifier_worker import ClassifierWorker
from noprop_dist.distributed.evaluator import Evaluator
from noprop_dist.distributed.room import Room
from noprop_dist.training.setup import RunSetup

ActorHandle = Any
"""Ray's actor handles have no static type."""


@dataclass(frozen=True)
class Workers:
    """All actors of a run but the coordinator.

    Attributes:
        actors: by a name for people, such as 'worker of blocks 1, 2'.
        of_stage: name of the actor that holds each stage.
    """

    actors: dict[str, ActorHandle]
    of_stage: dict[int, str]

    @property
    def evaluator(self) -> ActorHandle:
        """The actor that measures checkpoints."""
        return self.actors["evaluator"]


def create_workers(setup: RunSetup, data: DataSet, directory: str, room: Room) -> Workers:
    """Create the actors of a run; the data set is put into the object store once, for all of them.

    An optimiser step is not idempotent, so Ray may neither restart an actor nor retry a call by itself.
    """
    once = {"max_restarts": 0, "max_task_retries": 0}
    side = {"num_cpus": 0, "num_gpus": room.placement.side_gpus, **once}
    inputs, held_out = ray.put(data.train.inputs), ray.put(data.held_out)
    actors: dict[str, ActorHandle] = {}
    of_stage = {setup.classifier_stage: "classifier worker"}
    for bundle, place in enumerate(room.placement.workers):
        name = f"worker of {_blocks(place.blocks)}"
        strategy = PlacementGroupSchedulingStrategy(room.group, placement_group_bundle_index=bundle)
        options = {"num_cpus": place.cpus, "num_gpus": place.gpus, "scheduling_strategy": strategy, **once}
        actors[name] = ray.remote(BlockWorker).options(**options).remote(setup, inputs, place.blocks)
        of_stage |= dict.fromkeys(place.blocks, name)
    actors["classifier worker"] = ray.remote(ClassifierWorker).options(**side).remote(setup)
    actors["evaluator"] = ray.remote(Evaluator).options(**side).remote(setup, held_out, directory)
    return Workers(actors, of_stage)


def _blocks(blocks: tuple[int, ...]) -> str:
    return f"block {blocks[0]}" if len(blocks) == 1 else f"blocks {', '.join(map(str, blocks))}"
