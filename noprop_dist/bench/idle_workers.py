"""Workers whose steps do nothing, or only take their time: what is left of a run is the engine around the blocks."""

import time
from typing import ClassVar

import torch

from noprop_dist.engines.ray.workers import worker_facts
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import Round, RoundKey
from noprop_dist.training.messages import WorkerFacts
from noprop_dist.training.progress import RoundReport


class NoopWorker:
    """Takes the place of block workers and of the classifier worker; answers as they do, at once."""

    step_seconds: ClassVar[float] = 0.0

    def __init__(self, *_: object) -> None:
        self._done: dict[int, int] = {}

    def facts(self) -> WorkerFacts:
        """Where this worker is."""
        return worker_facts(torch.device("cpu"))

    def hold(self, stage: int, snapshot: Snapshot | None) -> None:
        """Take a stage in."""
        self._done[stage] = 0 if snapshot is None else snapshot.step

    def release(self, stage: int) -> None:
        """Let a stage go."""
        del self._done[stage]

    def train(self, work: Round | RoundKey) -> RoundReport:
        """Take as long as the steps of the round do."""
        begun = time.perf_counter()
        if self.step_seconds:
            time.sleep(work.steps * self.step_seconds)
        self._done[work.stage] = work.first_step + work.steps
        seconds = time.perf_counter() - begun
        return RoundReport(work.stage, work.first_step, work.steps, 0.0, 0.0, 0.0, seconds)

    def snapshot(self, stage: int) -> Snapshot:
        """A state without weights."""
        return Snapshot(stage, self._done[stage], {}, {}, "{}")

    def stop(self) -> None:
        """Rounds are not broken off."""


class SleepingWorker(NoopWorker):
    """Every step takes 20 ms, in which no core is busy."""

    step_seconds = 0.02
