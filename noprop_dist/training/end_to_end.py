"""One step of the back-propagation baseline, and the batches that it takes."""

import torch
from torch import nn

from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.objective import classifier_loss
from noprop_dist.random_streams import Purpose, stream_seed
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import Batch
from noprop_dist.training.optimisation import Optimisation
from noprop_dist.training.replicas import OneReplica
from noprop_dist.training.shared_embedding import EmbeddingReplica
from noprop_dist.training.trainers import StepLosses, expect_step, seed_dropout


class EndToEndTrainer:
    """Cross-entropy through all blocks, back-propagated; data-parallel.

    Args:
        network: (x, z_0) → scores; averages its gradients over all processes.
        optimisation: of the network's parameters.
        samples: of the training split, on the network's device.
        group: of the processes that train the network together, each its share of every batch.
        seed: of the run; z_0 at a step is keyed by it for the whole batch, dropout for each process.
    """

    def __init__(
        self, network: nn.Module, optimisation: Optimisation, samples: Samples, group: OneReplica, seed: int
    ) -> None:
        self._network = network.train()
        self._optimisation = optimisation
        self._samples = samples
        self.group = group
        self._seed = seed
        self.embedding = EmbeddingReplica(torch.empty(0), is_learned=False)

    @property
    def stage(self) -> int:
        """The only one."""
        return self._optimisation.stage

    def step(self, batch: Batch) -> StepLosses:
        """One optimiser step on this process's share of the batch of exactly the next step."""
        expect_step(self._optimisation, batch.step)
        x = self._samples.batch(batch.indices, batch.epoch)
        z_0 = torch.tensor(batch.z, device=x.device)
        labels = torch.tensor(batch.labels, dtype=torch.int64, device=x.device)
        seed_dropout(x.device, stream_seed(self._seed, Purpose.DROPOUT, self.group.rank, step=batch.step))
        loss = classifier_loss(self._network(x, z_0), labels)
        norm = self._optimisation.step(loss)
        return StepLosses(loss.detach(), loss.detach(), norm)

    def snapshot(self) -> Snapshot:
        """The whole state, copied to host memory."""
        return self._optimisation.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a snapshot of the network."""
        self._optimisation.restore(snapshot)
