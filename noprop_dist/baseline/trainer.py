"""One step of the back-propagation baseline, and the batches that it takes."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from noprop_dist.baseline.network import end_to_end_network
from noprop_dist.config.schema import Precision
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.objective import classifier_loss
from noprop_dist.random_streams import Purpose, stream_seed
from noprop_dist.stages import NETWORK, Stage
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import Round
from noprop_dist.training.execution import CallByCall
from noprop_dist.training.optimisation import Optimisation
from noprop_dist.training.replicas import OneReplica
from noprop_dist.training.setup import RunSetup
from noprop_dist.training.trainers import StepInputs, expect_step, multiply_in, step_inputs


class EndToEndTrainer:
    """Cross-entropy through all blocks, back-propagated; data-parallel.

    Args:
        network: (x, z_0) → scores; averages its gradients over all processes.
        optimisation: of the network's parameters.
        samples: of the training split, on the network's device.
        group: of the processes that train the network together, each on its share of every batch.
        seed: of the run; z_0 at a step is keyed by it for the whole batch, dropout for each process.
        device: that it computes on.
        precision: that the network multiplies in; all else is float32.
    """

    def __init__(
        self,
        network: nn.Module,
        optimisation: Optimisation,
        samples: Samples,
        group: OneReplica,
        seed: int,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self._network = network.train()
        self._optimisation = optimisation
        self._samples = samples
        self.group = group
        self._seed = seed
        self._device = device
        self._precision = precision
        self._execution = CallByCall(device)
        self.embedding = None  # W_embed is one of the network's parameters

    @property
    def stage(self) -> Stage:
        return self._optimisation.stage

    def inputs(self, work: Round) -> Iterator[StepInputs]:
        """This process's share of the batches of a round, on its device."""
        return step_inputs(work, self._device, self._samples)

    def step(self, inputs: StepInputs) -> Tensor:
        """One optimiser step on this process's share of the batch of exactly the next step; see `StageTrainer`."""
        expect_step(self._optimisation, inputs.step)
        seed = stream_seed(self._seed, Purpose.DROPOUT, self.group.rank, step=inputs.step)
        losses = self._execution(self._compute, inputs.tensors, seed)
        self._optimisation.advance()
        return losses

    def _compute(self, x: Tensor, labels: Tensor, z_0: Tensor) -> Tensor:
        with multiply_in(self._precision, self._device):
            scores = self._network(self._samples.normalise(x), z_0)
        loss = classifier_loss(scores.float(), labels)
        norm = self._optimisation.apply(loss)
        return torch.stack([loss.detach(), loss.detach(), norm])

    def snapshot(self) -> Snapshot:
        """The whole state, copied to host memory."""
        return self._optimisation.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a snapshot of the network."""
        self._optimisation.restore(snapshot)


def end_to_end_trainer(
    setup: RunSetup, samples: Samples, device: torch.device, group: OneReplica, wrap: Callable[[nn.Module], nn.Module]
) -> EndToEndTrainer:
    """The baseline's trainer of one process, at step 0.

    Args:
        setup: of the run.
        samples: of the training split, on the device.
        device: that it computes on.
        group: of the processes.
        wrap: makes a module whose gradients are averaged over all processes.
    """
    plan, training = setup.plan, setup.config.training
    network = setup.for_training(end_to_end_network(plan, setup.embedding), device)
    own_rates = {"classifier": setup.config.classifier.learning_rate}
    optimisation = Optimisation(NETWORK, network, training, training.learning_rate, plan.total_steps, own_rates)
    seed, precision = setup.config.seed, training.precision
    return EndToEndTrainer(wrap(network), optimisation, samples, group, seed, device, precision)
