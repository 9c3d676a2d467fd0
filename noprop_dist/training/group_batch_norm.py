"""Batch norm over the whole batch of a group of replicas: its mean and variance are those of one process's batch.

torch's SyncBatchNorm does this on GPUs alone.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from noprop_dist.training.replicas import OneReplica


class _SumOverGroup(torch.autograd.Function):
    """The sum over all replicas; every replica's loss depends on it, so its gradient is summed likewise."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, group: OneReplica) -> Tensor:
        context.group = group
        return group.sum(tensor)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.group.sum(gradients[0]), None


class GroupBatchNorm(nn.Module):
    """Replaces a batch norm layer while it is trained, with the same parameters and buffers under the same names.

    Args:
        layer: to be replaced; affine, and with running statistics.
        momentum: of the running statistics.
        group: of the replicas, which all have shares of the same size.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layer: _BatchNorm, momentum: float, group: OneReplica) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        for name, buffer in layer.named_buffers():
            self.register_buffer(name, buffer)
        self._eps, self._momentum = layer.eps, momentum
        self._group = group

    def forward(self, x: Tensor) -> Tensor:
        """(B / R, C, …) → the same shape and dtype, normalised over the batch of the whole group, in float32."""
        count = x.numel() // x.shape[1] * self._group.size
        wide = x.float()
        mean = self._sum(wide) / count
        centered = wide - _of_channels(mean, x)
        variance = self._sum(centered.square()) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self._eps).rsqrt()
        return (centered * _of_channels(scale, x) + _of_channels(self.bias, x)).to(x.dtype)

    def _sum(self, x: Tensor) -> Tensor:
        """Over all but the channels, and over all replicas: (C,)."""
        total: Tensor = _SumOverGroup.apply(x.sum(dim=[0, *range(2, x.dim())]), self._group)
        return total

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self._momentum)
        self.running_var.lerp_(variance, self._momentum)


def _of_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def normalise_over_group(network: nn.Module, group: OneReplica) -> nn.Module:
    """Let every batch norm layer normalise over the whole group; the network's state keeps its names."""
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm) and child.affine and child.track_running_stats and child.momentum is not None:
            setattr(network, name, GroupBatchNorm(child, child.momentum, group))
        else:
            normalise_over_group(child, group)
    return network
