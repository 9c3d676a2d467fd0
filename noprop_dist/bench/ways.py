"""Ways of running T blocks on one device: a plain loop, the trainer in several variants, and all blocks as one."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from noprop_dist.bench.stacked_blocks import StackedBlocks
from noprop_dist.config.schema import Precision
from noprop_dist.data.dataset import DataSet
from noprop_dist.diffusion.objective import denoising_weight, predict_embedding, squared_error
from noprop_dist.training.batch_stream import Round
from noprop_dist.training.cuda_graph import execution_on
from noprop_dist.training.device import start_computing, start_thread
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import RunSetup
from noprop_dist.training.step_inputs import step_inputs

Rounds = Mapping[int, Sequence[Round]]
"""By block; every block has as many, of the same steps."""


class Way(Protocol):
    """One way, with blocks of its own."""

    def run(self, rounds: Rounds) -> float:
        """Train every block on its rounds, and wait for the device; the mean of ‖û_t − u_y‖² over the last of them."""


class PlainLoop:
    """What public implementations do: for every batch, one block after another, call by call, in float32.

    The data is on the device, and z is drawn there; nothing is read from it on the way.

    Args:
        setup: of the run.
        data: of the run.
        device: that it computes on.
    """

    def __init__(self, setup: RunSetup, data: DataSet, device: torch.device) -> None:
        training, schedule = setup.config.training, setup.schedule
        self._setup, self._device = setup, device
        self._samples = setup.training_samples(data.train.inputs, device)
        self._embedding = setup.embedding.to(device)
        self._blocks = []
        for block in setup.config.blocks.trained():
            network = setup.block_network(block).to(device).train()
            optimizer = torch.optim.AdamW(
                network.parameters(), training.learning_rate, weight_decay=training.weight_decay
            )
            weight = denoising_weight(schedule, block, setup.config.objective.eta)
            self._blocks.append((network, optimizer, schedule.alpha_bar[block - 1], weight))

    def run(self, rounds: Rounds) -> float:
        """See `Way`; only the order of the samples is taken from the rounds."""
        start_computing(self._device.type, self._setup.config.engine.threads_per_worker)
        torch.use_deterministic_algorithms(False)
        first = next(iter(rounds.values()))
        errors = [self._step(x, labels) for work in first for x, labels in self._batches(work)]
        return float(torch.stack(errors[-first[-1].steps :]).mean())

    def _batches(self, work: Round) -> list[tuple[Tensor, Tensor]]:
        return [
            (self._samples.batch(indices), torch.from_numpy(labels).long().to(self._device))
            for indices, labels in zip(work.indices, work.labels, strict=True)
        ]

    def _step(self, x: Tensor, labels: Tensor) -> Tensor:
        errors, u_y = [], self._embedding[labels]
        for network, optimizer, alpha_bar, weight in self._blocks:
            z = alpha_bar**0.5 * u_y + (1 - alpha_bar) ** 0.5 * torch.randn_like(u_y)
            error = squared_error(predict_embedding(network(x, z), self._embedding), u_y)
            optimizer.zero_grad()
            torch.autograd.backward(weight * error)
            optimizer.step()
            errors.append(error.detach())
        return torch.stack(errors).mean()


class OwnTrainers:
    """The trainer's own blocks, as a worker has them.

    Args:
        setup: of the run; says precision, layout and whether steps are recorded.
        data: of the run.
        device: that it computes on.
        lanes: blocks at the same time, each lane a thread.
    """

    def __init__(self, setup: RunSetup, data: DataSet, device: torch.device, lanes: int = 1) -> None:
        self._setup = setup
        setup.start_computing()
        samples = setup.training_samples(data.train.inputs, device)
        own = (device, setup.config.engine.threads_per_worker)
        self._lanes = [ThreadPoolExecutor(1, f"lane-{k}", start_thread, own) for k in range(lanes)]
        self._trainers = {
            block: self._lane(block).submit(setup.block_trainer, block, samples, device).result()
            for block in setup.config.blocks.trained()
        }

    def _lane(self, block: int) -> ThreadPoolExecutor:
        return self._lanes[block % len(self._lanes)]

    def run(self, rounds: Rounds) -> float:
        """See `Way`."""
        self._setup.start_computing()
        pending = [
            self._lane(block).submit(train_round, self._trainers[block], work)
            for of_all_blocks in zip(*rounds.values(), strict=True)
            for block, work in zip(rounds, of_all_blocks, strict=True)
        ]
        reports = [future.result() for future in pending][-len(rounds) :]
        return sum(report.error for report in reports if report is not None) / len(reports)


class Stacked:
    """All blocks as one network; see `StackedBlocks`.

    Args:
        setup: of the run; says precision and whether steps are recorded.
        data: of the run.
        device: that it computes on.
    """

    def __init__(self, setup: RunSetup, data: DataSet, device: torch.device) -> None:
        self._setup, self._device = setup, device
        setup.start_computing()
        precision: Precision = setup.config.training.precision
        self._samples = setup.training_samples(data.train.inputs, device)
        self._blocks = StackedBlocks(setup, self._samples, device, precision)
        self._execution = execution_on(device, setup.records_steps_of(1))

    def run(self, rounds: Rounds) -> float:
        """See `Way`."""
        self._setup.start_computing()
        errors: list[Tensor] = []
        for of_all_blocks in zip(*rounds.values(), strict=True):
            first = step_inputs(of_all_blocks[0], self._device, self._samples)
            others = [step_inputs(work, self._device, None) for work in of_all_blocks[1:]]
            errors = []
            for one, *rest in zip(first, *others, strict=True):
                z = torch.stack([one.z, *(each.z for each in rest)])
                errors.append(self._execution(self._blocks.compute, (one.x, one.labels, z), one.step))
        return float(torch.stack(errors).mean())
