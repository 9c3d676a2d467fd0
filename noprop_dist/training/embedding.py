"""A learned W_embed: the one thing that all stages share.

It has one owner, and versions. Every stage trains `embedding.sync_steps` steps against one version. Meanwhile it
gathers the gradient of its own term of Eq. 8 with respect to W_embed, through every place where W_embed appears
(z, û, u_y). The owner applies the mean gradient, and that makes the next version.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from noprop_dist.stages import Stage
from noprop_dist.storage.snapshot import Arrays, Snapshot
from noprop_dist.training.finite import NonFiniteError
from noprop_dist.training.messages import EmbeddingReport
from noprop_dist.training.optimisation import Optimisation

GATHERED, GATHERED_FOR = "embedding_gradient", "embedding_version"
"""Names of what a snapshot keeps of a version that is under way."""


@dataclass(frozen=True)
class EmbeddingVersion:
    """One version of W_embed, which stages train against until the next one.

    Attributes:
        number: 0, 1, …; version n holds from step n · sync_steps on.
        weights: W_embed, (m, d) float32.
    """

    number: int
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingUpdate:
    """The gradient of all stages, from which the owner makes the next version.

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


def objective_gradient(gathered: Mapping[Stage, NDArray[np.float32]], blocks: int, steps: int) -> NDArray[np.float32]:
    """The gradient of Eq. 8 with E_t as the mean over all blocks, averaged over the steps of a version.

    Args:
        gathered: by stage, sums over the steps, (m, d): block t's of its denoising term, which carries T already;
            the classifier's of cross-entropy and KL.
        blocks: T.
        steps: of the version.
    """
    *of_blocks, of_classifier = (gathered[stage].astype(np.float64) for stage in sorted(gathered))
    total = of_classifier + np.sum(of_blocks, axis=0) / blocks
    mean: NDArray[np.float32] = (total / steps).astype(np.float32)
    return mean


class EmbeddingCopy:
    """A stage's copy of W_embed and, if that is learned, the gradient gathered since its version began.

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
        """Change to a version. Taking the present one again keeps what was gathered."""
        if version.number != self._version:
            self._gradient.zero_()
        with torch.no_grad():
            self.weights.copy_(torch.tensor(version.weights))
        self._version = version.number

    def gathered(self) -> NDArray[np.float32] | None:
        """The gradient since the version began, summed over steps, (m, d); None if W_embed is fixed."""
        return self._gradient.cpu().numpy().copy() if self.is_learned else None

    def to_arrays(self) -> Arrays:
        """What a snapshot has to keep: the gathered gradient and its version, or nothing if W_embed is fixed."""
        gathered = self.gathered()
        return {} if gathered is None else {GATHERED: gathered, GATHERED_FOR: np.array(self._version)}

    def restore(self, arrays: Arrays) -> None:
        """Go to what a snapshot kept; the weights themselves come with the next round."""
        if self.is_learned and arrays:  # a stage that begins with weights alone has gathered nothing
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
    def stage(self) -> Stage:
        return self._optimisation.stage

    def apply(self, update: EmbeddingUpdate) -> tuple[EmbeddingVersion, EmbeddingReport]:
        """One optimiser step for the whole of a version.

        Returns:
            The next version, and a report of it.

        Raises:
            RuntimeError: the gradient is not that of the present version.
            NonFiniteError: the gradient is not finite.
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
        report = EmbeddingReport(
            update.first_step,
            update.steps,
            mean_norm=float(W.norm(dim=1).mean()),
            least_distance=float(torch.pdist(W).min()) if len(W) > 1 else 0.0,
            gradient_norm=float(norm),
            seconds=time.perf_counter() - started,
        )
        return version, report

    def snapshot(self) -> Snapshot:
        """The whole state."""
        return self._optimisation.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a snapshot of W_embed."""
        self._optimisation.restore(snapshot)


class EmbeddingExchange:
    """Versions of W_embed, and the gradients that lead from each to the next. Pure bookkeeping.

    Blocks wait for nothing but the next version. A replay brings the same gradients again and changes nothing. Versions
    and updates are kept from the oldest step on that any stage could go back to.

    Args:
        weights: W_embed at `first_step`, (m, d).
        first_step: from which all stages go on, a multiple of sync_steps.
        sync_steps: steps that a version lasts.
        total_steps: end of the run; the last version may be cut short.
        blocks: T.
    """

    def __init__(
        self, weights: NDArray[np.float32], first_step: int, sync_steps: int, total_steps: int, blocks: int
    ) -> None:
        self._sync_steps = sync_steps
        self._total_steps = total_steps
        self._blocks = blocks
        number = -(-first_step // sync_steps)
        self._versions = {number: EmbeddingVersion(number, weights)}
        self._gathered: dict[int, dict[Stage, NDArray[np.float32]]] = {}
        self._updates: dict[int, EmbeddingUpdate] = {}

    def at(self, step: int) -> EmbeddingVersion | None:
        """The version that holds at a step; None until it is made."""
        return self._versions.get(step // self._sync_steps)

    def end_of_version(self, step: int) -> int:
        """The step at which the version of a step ends."""
        return min((step // self._sync_steps + 1) * self._sync_steps, self._total_steps)

    def gather(self, stage: Stage, steps_done: int, gradient: NDArray[np.float32]) -> None:
        """Take in the gradient of a stage that has come to `steps_done`; it counts at the end of a version."""
        number = (steps_done - 1) // self._sync_steps
        if steps_done != self.end_of_version(steps_done - 1) or number in self._updates or number not in self._versions:
            return
        gathered = self._gathered.setdefault(number, {})
        gathered[stage] = gradient
        if len(gathered) == self._blocks + 1:
            first = number * self._sync_steps
            steps = steps_done - first
            mean = objective_gradient(self._gathered.pop(number), self._blocks, steps)
            self._updates[number] = EmbeddingUpdate(number, first, steps, mean)

    def update_at(self, step: int) -> EmbeddingUpdate | None:
        """The update that the owner applies next at a step; None while stages are still at work on its version."""
        return self._updates.get(step // self._sync_steps)

    def may_train_to(self, step: int) -> int:
        """The step up to which a stage at `step` may train: the end of its version, or `step` until that is made."""
        return step if self.at(step) is None else self.end_of_version(step)

    def may_update_to(self, step: int) -> int:
        """The step up to which the owner at `step` may go: the end of its version, or `step` until all have come."""
        return step if self.update_at(step) is None else self.end_of_version(step)

    def publish(self, version: EmbeddingVersion) -> None:
        """Let stages train against a version that the owner made.

        Raises:
            RuntimeError: there is another version of that number, which no replay can make.
        """
        known = self._versions.setdefault(version.number, version)
        if not np.array_equal(known.weights, version.weights):
            raise RuntimeError(f"version {version.number} of W_embed was made twice, with different bits")

    def forget_before(self, step: int) -> None:
        """Forget what only a stage before this step could need: none can go back so far any more."""
        oldest = step // self._sync_steps
        for known in (self._versions, self._updates):
            for number in [each for each in known if each < oldest]:
                del known[number]
