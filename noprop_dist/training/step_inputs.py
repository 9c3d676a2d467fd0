"""The batches of a round on the device: labels and z are copied once for the round, then come the steps' batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from noprop_dist.data.samples import Samples, to_device
from noprop_dist.training.batch_stream import Round


@dataclass(frozen=True)
class StepInputs:
    """One step's batch.

    Attributes:
        step: 0-based.
        x: samples as they are stored, (B, …); empty for the classifier, which reads none.
        labels: (B,) int64.
        z: z_{t-1} for block t, z_T for the classifier, (B, d) float32.
    """

    step: int
    x: Tensor
    labels: Tensor
    z: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """(x, labels, z). They may be views, whose alignment can change bits: an `Execution` copies them."""
        return self.x, self.labels, self.z


def step_inputs(work: Round, device: torch.device, samples: Samples | None) -> Iterator[StepInputs]:
    """The batches of a round in the order of their steps; the host never waits for the device.

    Args:
        work: the round.
        device: of the batches.
        samples: of the training split, on that device; None if no images are read.
    """
    labels, z = to_device(work.labels, torch.int64, device), to_device(work.z, torch.float32, device)
    x_of_steps = repeat(labels.new_empty(0)) if samples is None else samples.read(work.indices, work.epochs)
    for k, x in zip(range(work.steps), x_of_steps, strict=False):
        yield StepInputs(work.first_step + k, x, labels[k], z[k])
