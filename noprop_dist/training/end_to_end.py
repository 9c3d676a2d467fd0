"""One step of the back-propagation baseline, and the batches that it takes."""

from dataclasses import dataclass

import torch
from torch import nn

from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.objective import classifier_loss
from noprop_dist.random_streams import Purpose, stream_seed
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import Batch
from noprop_dist.training.optimisation import Optimisation
from noprop_dist.training.shared_embedding import EmbeddingReplica
from noprop_dist.training.trainers import StepLosses, expect_step, seed_dropout


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process has: every so many samples one.

    Attributes:
        rank: 0-based.
        processes: that train one network together.
    """

    rank: int = 0
    processes: int = 1


class EndToEndTrainer:
    """Cross-entropy through all blocks, back-propagated; data-parallel.

    Args:
        network: (x, z_0) → scores; averages its gradients over all processes.
        optimisation: of the network's parameters.
        samples: of the training split, on the network's device.
        share: of this process.
        seed: of the run; z_0 at a step is keyed by it for the whole batch, dropout for each process.
    """

    def __init__(
        self, network: nn.Module, optimisation: Optimisation, samples: Samples, share: Share, seed: int
    ) -> None:
        self._network = network.train()
        self._optimisation = optimisation
        self._samples = samples
        self._share = share
        self._seed = seed
        self.embedding = EmbeddingReplica(torch.empty(0), is_learned=False)

    @property
    def stage(self) -> int:
        """The only one."""
        return self._optimisation.stage

    def step(self, batch: Batch) -> StepLosses:
        """One optimiser step on this process's share of the batch of exactly the next step."""
        expect_step(self._optimisation, batch.step)
        mine = slice(self._share.rank, None, self._share.processes)
        x = self._samples.batch(batch.indices[mine], batch.epoch)
        z_0 = torch.tensor(batch.z[mine], device=x.device)
        labels = torch.tensor(batch.labels[mine], dtype=torch.int64, device=x.device)
        seed_dropout(x.device, stream_seed(self._seed, Purpose.DROPOUT, self._share.rank, step=batch.step))
        loss = classifier_loss(self._network(x, z_0), labels)
        norm = self._optimisation.step(loss)
        return StepLosses(loss.detach(), loss.detach(), norm)

    def snapshot(self) -> Snapshot:
        """The whole state, copied to host memory."""
        return self._optimisation.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a snapshot of the network."""
        self._optimisation.restore(snapshot)
