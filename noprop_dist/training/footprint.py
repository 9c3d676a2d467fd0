"""How much memory a block takes, measured on one batch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from noprop_dist.errors import UserError
from noprop_dist.models.build import told
from noprop_dist.run_plan import RunPlan
from noprop_dist.torch_random import seeded_aside

PROCESS_BYTES = 700 * 2**20
"""Of a worker's process with torch and Ray, before it holds any block (docs/measurements.md)."""
GPU_PROCESS_BYTES = 3 * 2**30
"""The same with CUDA's libraries; not measured."""
OPTIMIZER_COPIES = {"adamw": 2, "adam": 2, "sgd": 1}
"""How many tensors of the weights' size the optimiser keeps."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one block while it trains.

    Attributes:
        parameters: number of trainable parameters.
        state: weights, gradients, optimiser state, and the average of the weights if one is kept.
        activations: kept for the backward pass of one batch.
    """

    parameters: int
    state: int
    activations: int


def training_bytes(prints: Iterable[Footprint], lanes: int) -> int:
    """Of the state of some blocks, and of the activations of as many of them as are trained at a time."""
    prints = list(prints)
    activations = sorted((each.activations for each in prints), reverse=True)
    return sum(each.state for each in prints) + sum(activations[:lanes])


def worker_bytes(prints: Sequence[Footprint], lanes: int, *, on_gpu: bool) -> int:
    """Memory of its machine that a worker takes which holds some blocks; on a GPU only their snapshots are there.

    Args:
        prints: of its blocks.
        lanes: blocks that it trains at a time.
        on_gpu: whether it computes on a GPU.
    """
    state = sum(each.state for each in prints)
    return GPU_PROCESS_BYTES + state if on_gpu else PROCESS_BYTES + training_bytes(prints, lanes)


def block_footprints(plan: RunPlan, *, as_trained: bool = True) -> dict[int, Footprint]:
    """Of every block that is trained. Blocks of the same network are measured once: there may be thousands.

    Args:
        plan: of the run.
        as_trained: see `block_footprint`.
    """
    measured: list[tuple[object, Footprint]] = []
    footprints = {}
    for t in plan.config.blocks.trained():
        settings = plan.config.blocks.network_of(t)
        known = next((each for network, each in measured if network == settings), None)
        footprints[t] = known or block_footprint(plan, t, as_trained=as_trained)
        if known is None:
            measured.append((settings, footprints[t]))
    return footprints


def block_footprint(plan: RunPlan, block: int, *, as_trained: bool = True) -> Footprint:
    """Build a block on the CPU and run one forward pass of a whole batch.

    Args:
        plan: of the run.
        block: its number.
        as_trained: whether the network does what it does in training; without it masks of dropout are not counted, and
            nothing of a user's network is run that its check has not run.

    Raises:
        UserError: there is not enough memory for it.
    """
    network = plan.block_network(block).train(as_trained)
    saved: dict[int, int] = {}
    training = plan.config.training
    batch = training.batch_size
    x, z = torch.zeros(batch, *plan.facts.input_shape), torch.zeros(batch, plan.shapes.embedding_dim)
    level = (torch.zeros(batch),) if plan.takes_level else ()

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with seeded_aside(0), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        try:
            logits = network(x, z, *level)
        except (RuntimeError, MemoryError) as error:
            raise UserError(f"training.batch_size={batch}: block {block} cannot take a batch: {told(error)}") from error
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    del logits
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    return Footprint(
        parameters=sum(p.numel() for p in network.parameters()),
        state=size * (2 + OPTIMIZER_COPIES[training.optimizer] + (training.ema_decay is not None)),
        activations=sum(bytes_ for pointer, bytes_ in saved.items() if pointer not in weights),
    )
