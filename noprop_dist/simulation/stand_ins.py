"""Stages that train by hashing: a lost, doubled or reordered step changes every weight after it.

A stage's weight is a 64-bit hash chained over its steps and, where W_embed is learned, over the version of each step.
The gradient of a step follows from the hash after it. The next version of W_embed follows from the gradients of all
stages, through the shipped `EmbeddingExchange`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.snapshot import Arrays, Snapshot, weights_sha256
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.embedding import EmbeddingExchange, EmbeddingUpdate, EmbeddingVersion
from noprop_dist.training.messages import EmbeddingReport, RoundReport, StageFailure

FIRST_VERSION = np.zeros(4, np.float32)
Gradient = NDArray[np.float32]


def numbers(chain: int) -> Gradient:
    """Four small whole numbers of a hash; sums of them are exact in float32."""
    return np.array([chain >> shift & 255 for shift in (0, 8, 16, 24)], np.float32)


class HashedStage:
    """The state of one stage.

    Args:
        stage: its identity.
        snapshot: that it goes on from; None is step 0.
        on_gpu: whether it computes on a GPU, which gives other bits.
    """

    def __init__(self, stage: Stage, snapshot: Snapshot | None, on_gpu: bool) -> None:
        self.stage = stage
        self._key = hash((len(stage.kind), stage.index, on_gpu))
        self._step, self._chain, self._version = 0, 0, 0
        self._gathered = np.zeros(4, np.float32)
        if snapshot is not None:
            self._step, self._chain = snapshot.step, int(snapshot.weights["chain"][0])
            if snapshot.optimizer:
                self._version, self._gathered = (
                    int(snapshot.optimizer["version"]),
                    snapshot.optimizer["gathered"].copy(),
                )

    def train(self, key: RoundKey, seconds: float) -> RoundReport | StageFailure:
        """Do the steps of a round; a failure if it is not the next one."""
        if key.first_step != self._step:
            return StageFailure(self.stage, key.first_step, f"RuntimeError: has done {self._step} steps", "")
        learned = key.embedding is not None
        against = 0
        if key.embedding is not None:
            against = _checksum(key.embedding.weights)
            if key.embedding.number != self._version:
                self._version, self._gathered = key.embedding.number, np.zeros(4, np.float32)
        for step in range(key.first_step, key.first_step + key.steps):
            self._chain = hash((self._chain, self._key, step, against))
            if learned:
                self._gathered = self._gathered + numbers(self._chain)
        self._step += key.steps
        gradient = self._gathered if learned else None
        return RoundReport(self.stage, key.first_step, key.steps, 1.0, 1.0, 1.0, seconds, embedding_gradient=gradient)

    def update(self, update: EmbeddingUpdate) -> tuple[EmbeddingVersion, EmbeddingReport] | StageFailure:
        """The next version of W_embed."""
        if update.first_step != self._step:
            return StageFailure(self.stage, update.first_step, f"RuntimeError: has seen {self._step} steps", "")
        self._chain = hash((self._chain, _checksum(update.gradient)))
        self._step += update.steps
        report = EmbeddingReport(update.first_step, update.steps, 1.0, 1.0, 1.0, 0.001)
        return EmbeddingVersion(update.number + 1, numbers(self._chain)), report

    def snapshot(self) -> Snapshot:
        """The whole state."""
        learned = self._version or self._gathered.any()
        kept = {"version": np.array(self._version), "gathered": self._gathered} if learned else {}
        return Snapshot(self.stage, self._step, _weights(self.stage, self._chain), kept, "{}")


def _checksum(values: Gradient) -> int:
    return hash(tuple(values.tolist()))


def _weights(stage: Stage, chain: int) -> Arrays:
    weights: Arrays = {"chain": np.array([chain], np.int64)}
    return weights | {"weight": numbers(chain)} if stage == EMBEDDING else weights


@dataclass(frozen=True)
class Undisturbed:
    """What the algorithm gives, without any engine.

    Attributes:
        chains: the hash of each stage after each step at which one may be snapshotted.
    """

    chains: Mapping[Stage, Mapping[int, int]]

    def is_right(self, snapshot: Snapshot) -> bool:
        """Return True if a snapshot has the bits that its stage has after so many steps."""
        return self.chains[snapshot.stage].get(snapshot.step) == int(snapshot.weights["chain"][0])

    def fingerprints(self, step: int) -> dict[Stage, str]:
        """SHA-256 of every stage's weights after so many steps."""
        return {stage: weights_sha256(_weights(stage, chains[step])) for stage, chains in self.chains.items()}


@lru_cache(maxsize=256)
def _undisturbed(
    stages: tuple[Stage, ...], blocks: int, total: int, sync: int, learned: bool, on_gpu: bool
) -> Undisturbed:
    """Algorithm 1, step by step, one stage after the other."""
    state = {stage: HashedStage(stage, None, on_gpu) for stage in stages}
    exchange = EmbeddingExchange(FIRST_VERSION, 0, sync, total, blocks) if learned else None
    chains: dict[Stage, dict[int, int]] = {stage: {0: 0} for stage in stages}
    for first in range(0, total, sync):
        steps = min(sync, total - first)
        version = None if exchange is None else exchange.at(first)
        for stage in stages:
            for step in range(first, first + steps) if stage != EMBEDDING else ():
                report = state[stage].train(RoundKey(stage, step, 1, version), 0.0)
                assert isinstance(report, RoundReport)
                chains[stage][step + 1] = _chain(state[stage])
                if exchange is not None and report.embedding_gradient is not None:
                    exchange.gather(stage, report.steps_done, report.embedding_gradient)
        if exchange is not None:
            update = exchange.update_at(first)
            assert update is not None
            made = state[EMBEDDING].update(update)
            assert not isinstance(made, StageFailure)
            exchange.publish(made[0])
            chains[EMBEDDING][first + steps] = _chain(state[EMBEDDING])
    return Undisturbed(chains)


def _chain(state: HashedStage) -> int:
    return int(state.snapshot().weights["chain"][0])


def undisturbed(plan: RunPlan, on_gpu: bool) -> Undisturbed:
    """What a run of this plan must end with, whatever happens to it."""
    learned, blocks = plan.learns_embedding, plan.config.blocks.count
    return _undisturbed(plan.stages, blocks, plan.total_steps, plan.sync_steps if learned else 1, learned, on_gpu)
