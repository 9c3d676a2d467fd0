"""Ways of running T blocks on one device: a plain loop, the trainer in several variants, and all blocks as one."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Protocol

import torch
from torch import Tensor

from noprop_dist.data.dataset import DataSet
from noprop_dist.diffusion.objective import denoising_weight, predict_embedding, squared_error
from noprop_dist.stages import block
from noprop_dist.training.batch_stream import Round
from noprop_dist.training.device import start_computing, start_thread
from noprop_dist.training.execution import execution_on
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import RunSetup
from noprop_dist.training.trainers import multiply_in, step_inputs

Rounds = Mapping[int, Sequence[Round]]
"""By block, 1..T. Every block has as many, of the same steps."""


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
        training, schedule = setup.config.training, setup.plan.schedule
        self._setup, self._device = setup, device
        self._samples = setup.training_samples(data.train.inputs, device)
        self._embedding = setup.embedding.to(device)
        self._blocks = []
        for number in setup.config.blocks.trained():
            network = setup.plan.block_network(number).to(device).train()
            optimizer = torch.optim.AdamW(
                network.parameters(), training.learning_rate, weight_decay=training.weight_decay
            )
            weight = denoising_weight(schedule, number, setup.config.objective.eta)
            self._blocks.append((network, optimizer, schedule.alpha_bar[number - 1], weight))

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
        setup: of the run; says precision, layout and whether steps are captured.
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
        self.trainers = {
            number: self._lane(number).submit(setup.block_trainer, number, samples, device).result()
            for number in setup.config.blocks.trained()
        }

    def _lane(self, number: int) -> ThreadPoolExecutor:
        return self._lanes[number % len(self._lanes)]

    def run(self, rounds: Rounds) -> float:
        """See `Way`."""
        self._setup.start_computing()
        pending = [
            self._lane(number).submit(train_round, self.trainers[number], work)
            for of_all_blocks in zip(*rounds.values(), strict=True)
            for number, work in zip(rounds, of_all_blocks, strict=True)
        ]
        reports = [future.result() for future in pending][-len(rounds) :]
        return sum(report.error for report in reports if report is not None) / len(reports)


class Stacked:
    """All blocks as one network that is mapped over their weights (torch.func).

    The blocks need the same network, a fixed W_embed and AdamW. Weights are stacked along a new first dimension, so
    that one kernel does a layer of every block. The trainer does not use it: all blocks have to take their steps
    together, with one optimiser and dropout from one generator. So a block's bits would depend on the others.

    Args:
        setup: of the run; says precision and whether steps are captured.
        data: of the run.
        device: that it computes on.
    """

    def __init__(self, setup: RunSetup, data: DataSet, device: torch.device) -> None:
        setup.start_computing()
        training, blocks = setup.config.training, setup.config.blocks.trained()
        networks = [setup.plan.block_network(number).to(device).train() for number in blocks]
        self._setup, self._device = setup, device
        self._samples = setup.training_samples(data.train.inputs, device)
        self._embedding = setup.embedding.to(device)
        weights = [denoising_weight(setup.plan.schedule, number, setup.config.objective.eta) for number in blocks]
        self._weights = torch.tensor(weights, device=device)
        self.parameters, self._buffers = torch.func.stack_module_state(networks)
        self._network = deepcopy(networks[0]).to("meta")
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(),
            training.learning_rate,
            weight_decay=training.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )
        self._execution = execution_on(device, setup.plan.captures_steps_of(block(1)))

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
                errors.append(self._execution(self._compute, (one.x, one.labels, z), one.step))
        return float(torch.stack(errors).mean())

    def _compute(self, x: Tensor, labels: Tensor, z: Tensor) -> Tensor:
        """One step of every block: x (B, …) as stored, labels (B,) and z (T, B, d) → ‖û_t − u_y‖² of each, (T,)."""
        with multiply_in(self._setup.config.training.precision, self._device):
            logits = torch.vmap(self._of_one_block, in_dims=(0, 0, None, 0), randomness="different")(
                self.parameters, self._buffers, self._samples.normalise(x), z
            )
        u_hat = predict_embedding(logits.float(), self._embedding)
        errors = (u_hat - self._embedding[labels]).square().sum(dim=-1).mean(dim=1)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward((self._weights * errors).sum())  # no term has a weight of another block in it
        self._optimizer.step()
        return errors.detach()

    def _of_one_block(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(self._network, (parameters, buffers), (x, z))
        return logits
