"""R processes that train one block together, each on its share of every batch.

This is the only all-reduce of a NoProp run, and it stays within the group: other blocks have groups of their own.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from noprop_dist.errors import TrainingError
from noprop_dist.training.batch_stream import Round


class GroupLostError(TrainingError):
    """A process of the group is gone, so the others cannot go on."""


class OneReplica:
    """A block that one process trains, on whole batches."""

    rank, size = 0, 1

    def share(self, work: Round) -> Round:
        """This process's share of a round."""
        return work

    def average_(self, gradients: Sequence[Tensor]) -> None:
        """Replace every tensor by its mean over all replicas."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all replicas, a new tensor."""
        return tensor.clone()

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all replicas, a new tensor."""
        return self.sum(tensor) / self.size


class ReplicaGroup(OneReplica):
    """One of several processes, which are torch's default process group.

    Sums are taken in the order of ranks, whatever the backend does, so the bits are the same wherever processes run.

    Args:
        rank: of this process, 0-based.
        size: R.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def share(self, work: Round) -> Round:
        """Every R-th sample of every batch."""
        mine = slice(self.rank, None, self.size)
        return replace(
            work,
            indices=work.indices[:, mine],
            labels=work.labels[:, mine],
            z=work.z[:, mine],
            levels=None if work.levels is None else work.levels[:, mine],
        )

    def average_(self, gradients: Sequence[Tensor]) -> None:
        """Replace every tensor by its mean over all replicas."""
        flat = self.mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all replicas; moves as many bytes as a ring all-reduce.

        Raises:
            GroupLostError: a process of the group does not answer.
        """
        length = -(-tensor.numel() // self.size)
        flat = tensor.new_zeros(length * self.size)
        flat[: tensor.numel()] = tensor.reshape(-1)
        parts, whole = torch.empty_like(flat), torch.empty_like(flat)
        try:
            dist.all_to_all_single(parts, flat)
            of_rank = parts.view(self.size, length).unbind()
            mine = of_rank[0].clone()
            for part in of_rank[1:]:
                mine += part
            dist.all_gather(list(whole.view(self.size, length).unbind()), mine)
        except RuntimeError as error:
            raise GroupLostError(f"a replica does not answer: {str(error).splitlines()[0]}") from error
        return whole[: tensor.numel()].view_as(tensor)


ALONE = OneReplica()
