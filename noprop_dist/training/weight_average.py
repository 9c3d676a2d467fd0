"""A moving average of a stage's weights (`training.ema_decay`): what is evaluated and loaded, and never trained.

After step n (from 1 on) the average is m ← m + (1 − d_n)(w − m), with d_n = min(decay, n / (n + 9)): it begins with
the weights as they are, not with those of step 0. Buffers, such as running statistics, are not averaged.
"""

import torch
from torch import Tensor, nn

from noprop_dist.storage.snapshot import Arrays, to_arrays

TRAINED = "trained/"
"""Begins the names of the trained weights in a snapshot's optimiser file, where the weights' file has the average."""


class WeightAverage:
    """The average of a module's parameters, on their device.

    Args:
        module: with the weights of step 0.
        decay: the most that is kept of the average at a step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        averaged = [each for each in module.parameters() if each.is_floating_point() or each.is_complex()]
        self._trained = [parameter.detach() for parameter in averaged]
        self._average = [weight.clone() for weight in self._trained]
        by_parameter = {id(each): average for each, average in zip(averaged, self._average, strict=True)}
        # A parameter that a network uses in two places has two names.
        every = module.named_parameters(remove_duplicate=False)
        self._by_name = {name: by_parameter[id(each)] for name, each in every if id(each) in by_parameter}
        self._share = torch.zeros((), device=self._trained[0].device)
        self.stands_at(0)

    def update(self) -> None:
        """Take in the weights after a step. It can be captured and replayed: the share lies in the device's memory."""
        differences = torch._foreach_sub(self._trained, self._average)
        torch._foreach_mul_(differences, self._share)
        torch._foreach_add_(self._average, differences)

    def stands_at(self, updates: int) -> None:
        """The host's part of a step: how much of the weights the next update takes in."""
        self._share.fill_(1 - min(self._decay, (updates + 1) / (updates + 10)))

    def to_arrays(self) -> Arrays:
        """A copy in host memory, under the names of the parameters."""
        return to_arrays(self._by_name)

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Go to what a snapshot kept, by the names of the parameters."""
        for name, average in self._by_name.items():
            average.copy_(weights[name])
