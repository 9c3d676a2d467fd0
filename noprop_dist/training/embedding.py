"""W_embed where it is learned: the one thing that all stages share.

It has one owner and versions. Every stage trains `embedding.sync_steps` steps against one version and gathers the
gradient of its own term of Eq. 8 with respect to W_embed on the way, through every place where W_embed appears
(z, û, u_y). The owner applies the mean gradient, which makes the next version.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from noprop_dist.storage.snapshot import Arrays, Snapshot
from noprop_dist.training.finite import NonFiniteError
from noprop_dist.training.optimisation import Optimisation
from noprop_dist.training.progress import RoundReport

GATHERED, GATHERED_FOR = "embedding_gradient", "embedding_version"
"""Names of what a snapshot keeps of a version that is under way."""


@dataclass(frozen=True)
class EmbeddingVersion:
    """What stages train against until the next one.

    Attributes:
        number: 0, 1, …; version n holds from step n · sync_steps on.
        weights: W_embed, (m, d) float32.
    """

    number: int
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingUpdate:
    """What makes the next version: from the stages to the owner.

    Attributes:
        number: of the version that the gradient was taken at.
        first_step: of that version, 0-based.
        steps: that it lasted.
        gradient: of Eq. 8 with respect to W_embed, mean over these steps, (m, d) float32.
    """

    number: int
    first_step: int
    steps: int
    gradient: NDArray[np.float32]


def objective_gradient(gathered: Mapping[int, NDArray[np.float32]], blocks: int, steps: int) -> NDArray[np.float32]:
    """The gradient of Eq. 8 with E_t as the mean over all blocks, averaged over the steps of a version.

    Args:
        gathered: by stage, sums over the steps, (m, d): block t's of its denoising term, which carries T already;
            stage T + 1's of cross-entropy and KL.
        blocks: T.
        steps: of the version.
    """
    *of_blocks, of_classifier = (gathered[stage].astype(np.float64) for stage in sorted(gathered))
    total = of_classifier + np.sum(of_blocks, axis=0) / blocks
    mean: NDArray[np.float32] = (total / steps).astype(np.float32)
    return mean


class EmbeddingReplica:
    """A stage's copy of W_embed and, where that is learned, the gradient gathered since its version began.

    Args:
        weights: W_embed, (m, d), on the stage's device.
        is_learned: whether versions and gradients come and go.
    """

    def __init__(self, weights: Tensor, is_learned: bool) -> None:
        self.weights = weights.detach().clone().requires_grad_(is_learned)
        self._gradient = torch.zeros_like(self.weights)
        self.is_learned = is_learned
        self._version = 0
        if is_learned:
            self.weights.grad = self._gradient  # back-propagation adds to it, in its place

    def take(self, version: EmbeddingVersion) -> None:
        """Go over to a version; taking the present one again changes nothing that was gathered."""
        if version.number != self._version:
            self._gradient.zero_()
        with torch.no_grad():
            self.weights.copy_(torch.tensor(version.weights))
        self._version = version.number

    def gathered(self) -> NDArray[np.float32] | None:
        """The gradient since the version began, summed over steps, (m, d); None where W_embed is fixed."""
        return self._gradient.cpu().numpy().copy() if self.is_learned else None

    def to_arrays(self) -> Arrays:
        """What a snapshot has to keep."""
        gathered = self.gathered()
        return {} if gathered is None else {GATHERED: gathered, GATHERED_FOR: np.array(self._version)}

    def restore(self, arrays: Arrays) -> None:
        """Go to what a snapshot kept; the weights themselves come with the next round."""
        if self.is_learned:
            self._version = int(arrays[GATHERED_FOR])
            self._gradient.copy_(torch.tensor(arrays[GATHERED]))


class EmbeddingTable(nn.Module):
    """W_embed as the one parameter of a module."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights.clone())


class EmbeddingTrainer:
    """The owner of W_embed; computes on the CPU, so that its bits depend on no device.

    Args:
        table: with the initial weights.
        optimisation: of that table.
    """

    def __init__(self, table: EmbeddingTable, optimisation: Optimisation) -> None:
        self._table = table
        self._optimisation = optimisation

    @property
    def stage(self) -> int:
        """T + 2."""
        return self._optimisation.stage

    def apply(self, update: EmbeddingUpdate) -> tuple[EmbeddingVersion, RoundReport]:
        """One optimiser step for the whole of a version.

        Returns:
            The next version, and a report whose `loss` is the mean length of a class embedding ‖u_y‖ and whose
            `error` is the least distance between two of them: what shows a W_embed that shrinks or collapses.

        Raises:
            NonFiniteError: the gradient, or W_embed after the step, is no finite number.
        """
        if update.first_step != self._optimisation.steps_done:
            done = self._optimisation.steps_done
            raise RuntimeError(f"W_embed has seen {done} steps, got the gradient from step {update.first_step}")
        if not np.isfinite(update.gradient).all():
            raise NonFiniteError(update.first_step, "the gradient of W_embed was not finite")
        started, weight = time.perf_counter(), self._table.weight
        # The gradient of ⟨W, G⟩ with respect to W is G.
        norm = self._optimisation.step((weight * torch.from_numpy(update.gradient)).sum(), steps=update.steps)
        W = weight.detach()
        version = EmbeddingVersion(update.number + 1, W.numpy().copy())
        length, distance = float(W.norm(dim=1).mean()), float(torch.pdist(W).min()) if len(W) > 1 else 0.0
        seconds = time.perf_counter() - started
        report = RoundReport(self.stage, update.first_step, update.steps, length, distance, float(norm), seconds)
        return version, report

    def snapshot(self) -> Snapshot:
        """The whole state."""
        return self._optimisation.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a snapshot of W_embed."""
        self._optimisation.restore(snapshot)
