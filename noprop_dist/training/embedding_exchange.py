"""Versions of W_embed and the gradients that lead from each to the next: the only thing that blocks wait for."""

import numpy as np
from numpy.typing import NDArray

from noprop_dist.training.embedding import EmbeddingUpdate, EmbeddingVersion, objective_gradient


class EmbeddingExchange:
    """Knows which version holds at a step, and when the next one can be made. Pure bookkeeping.

    Replays are harmless: what is known already is known to be the same. Versions and updates are kept from the
    oldest step on that any stage could go back to.

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
        self._gathered: dict[int, dict[int, NDArray[np.float32]]] = {}
        self._updates: dict[int, EmbeddingUpdate] = {}

    def at(self, step: int) -> EmbeddingVersion | None:
        """The version that holds at a step; None where it is not made yet."""
        return self._versions.get(step // self._sync_steps)

    def end_of_version(self, step: int) -> int:
        """The step at which the version of a step ends."""
        return min((step // self._sync_steps + 1) * self._sync_steps, self._total_steps)

    def gather(self, stage: int, steps_done: int, gradient: NDArray[np.float32]) -> None:
        """A stage has come to `steps_done` with this gradient; it counts where that is the end of a version."""
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
        """What the owner has to do at a step; None where stages are still at work on it."""
        return self._updates.get(step // self._sync_steps)

    def may_train_to(self, step: int) -> int:
        """How far a stage that is at `step` may go now: to the end of a version, or nowhere where that is not made."""
        return step if self.at(step) is None else self.end_of_version(step)

    def may_update_to(self, step: int) -> int:
        """The same for the owner."""
        return step if self.update_at(step) is None else self.end_of_version(step)

    def publish(self, version: EmbeddingVersion) -> None:
        """The owner made a version.

        Raises:
            RuntimeError: it made another one of that number before, which no replay can do.
        """
        known = self._versions.setdefault(version.number, version)
        if not np.array_equal(known.weights, version.weights):
            raise RuntimeError(f"version {version.number} of W_embed was made twice, with different bits")

    def forget_before(self, step: int) -> None:
        """No stage can go back behind this step any more."""
        oldest = step // self._sync_steps
        for known in (self._versions, self._updates):
            for number in [each for each in known if each < oldest]:
                del known[number]
