"""Runs of the engine whose workers do nothing, or only sleep: what is left is the engine around the blocks."""

import tempfile
import time
from collections.abc import Sequence
from typing import ClassVar

import torch

from noprop_dist.bench.rates import undisturbed
from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import RunConfig
from noprop_dist.engines.ray.actors import WorkerClasses
from noprop_dist.engines.ray.coordinator import Coordinator
from noprop_dist.engines.ray.workers import worker_facts
from noprop_dist.records import Record
from noprop_dist.stages import Stage
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import Snapshot
from noprop_dist.training.batch_stream import Round, RoundKey
from noprop_dist.training.messages import RoundReport, WorkerFacts


class NoopWorker:
    """Takes the place of block workers and of the classifier worker; answers as they do, at once."""

    step_seconds: ClassVar[float] = 0.0

    def __init__(self, *_: object) -> None:
        self._done: dict[Stage, int] = {}

    def facts(self) -> WorkerFacts:
        return worker_facts(torch.device("cpu"))

    def hold(self, stage: Stage, snapshot: Snapshot | None) -> None:
        self._done[stage] = 0 if snapshot is None else snapshot.step

    def release(self, stage: Stage) -> None:
        del self._done[stage]

    def train(self, work: Round | RoundKey) -> RoundReport:
        """Take as long as the steps of the round do."""
        begun = time.perf_counter()
        if self.step_seconds:
            time.sleep(work.steps * self.step_seconds)
        self._done[work.stage] = work.first_step + work.steps
        seconds = time.perf_counter() - begun
        return RoundReport(work.stage, work.first_step, work.steps, 0.0, 0.0, 0.0, seconds)

    def snapshot(self, stage: Stage) -> Snapshot:
        """A state without weights."""
        return Snapshot(stage, self._done[stage], {}, {}, "{}")

    def stop(self) -> None:
        """Do nothing: rounds are not broken off."""


class SleepingWorker(NoopWorker):
    """Every step takes 20 ms, in which no core is busy."""

    step_seconds = 0.02


def idle_config(blocks: int, steps: int, workers: int, settings: Sequence[str] = ()) -> RunConfig:
    """The configuration of a run of digits whose blocks are as small as can be; see `idle_records`."""
    fixed = [
        *undisturbed(steps, workers),
        *(f"blocks.count={blocks}", "blocks.network={kind: mlp, width: 8, depth: 1}"),
        *(f"checkpoint.snapshot_every_steps={steps}", "engine.device=cpu", "engine.start_timeout_seconds=900"),
    ]
    return load_config("digits", None, [*fixed, *settings])


def idle_records(
    blocks: int, steps: int, workers: int, worker: type[NoopWorker], settings: Sequence[str] = ()
) -> list[Record]:
    """The records of a run of digits with idle workers.

    Args:
        blocks: T.
        steps: of each.
        workers: processes that hold blocks.
        worker: their class.
        settings: further ones.
    """
    config = idle_config(blocks, steps, workers, settings)
    classes = WorkerClasses(block=worker, classifier=NoopWorker)
    with tempfile.TemporaryDirectory(prefix="noprop-dist-bench-") as folder:
        Coordinator(config, f"{folder}/run", worker_classes=classes).run()
        return RunDirectory(f"{folder}/run").metrics()
