"""The metrics of one run: a fold over its records, and the present state of its stages at every scrape.

A coordinator that resumes a run folds the records of the one before it, too. So counters go on from where they stood.
"""

import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from prometheus_client import CollectorRegistry

from noprop_dist import __version__
from noprop_dist.config.schema import MetricsSettings
from noprop_dist.errors import UserError
from noprop_dist.metrics.discovery import DiscoveryFile
from noprop_dist.metrics.endpoint import Endpoint
from noprop_dist.metrics.families import Families
from noprop_dist.metrics.live import LiveCollector, LiveStage
from noprop_dist.records import (
    EmbeddingUpdated,
    Evaluated,
    ObjectiveMeasured,
    Record,
    RoundDone,
    SnapshotWritten,
    StageFailed,
    StageRecovered,
    WorkerLost,
    WorkerReady,
)
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import EMBEDDING, Stage

HEALTHY_SECONDS = 60.0
"""A coordinator whose loop has not turned once in this time is stuck."""
ANY_ADDRESS = ("0.0.0.0", "::", "")


class MetricsExporter:
    """Serves a run's metrics until closed.

    Args:
        run: value of the label `run`.
        plan: of the run.
        settings: where to listen.
        node_address: of this node, as others reach it.

    Raises:
        UserError: this machine cannot listen on the host's address, or the discovery file cannot be written.
    """

    def __init__(self, run: str, plan: RunPlan, settings: MetricsSettings, node_address: str = "") -> None:
        assert settings.port is not None
        self._run = run
        self._batch_size = plan.config.training.batch_size
        self._registry = CollectorRegistry()
        self._families = Families(self._registry)
        self._describe(plan)
        self._had_coordinator, self._trains = False, False
        self._missing: set[str] = set()
        self._counted: dict[Stage, int] = {}
        self._last_turn = time.monotonic()
        self._endpoint = Endpoint(self._registry, settings.host, settings.port, self._healthy, lambda: self._trains)
        reached_at = node_address or socket.gethostname() if settings.host in ANY_ADDRESS else settings.host
        target = f"{f'[{reached_at}]' if ':' in reached_at else reached_at}:{self._endpoint.port}"
        self.address = f"http://{target}/metrics"
        try:
            self._discovery = DiscoveryFile(settings.discovery, run, target) if settings.discovery else None
        except UserError:
            self._endpoint.close()
            raise

    def show_live(self, stages: Callable[[], Sequence[LiveStage]]) -> None:
        """Show at every scrape what `stages` returns; it is called from the endpoint's thread."""
        self._registry.register(LiveCollector(self._run, stages))

    def loop_turned(self) -> None:
        """Note that the coordinator's loop runs: /healthz fails once this is not called for `HEALTHY_SECONDS`."""
        self._last_turn = time.monotonic()

    def record(self, record: Record) -> None:
        """Fold one record of metrics.jsonl into the metrics."""
        families = self._families
        match record:
            case RoundDone():
                self._round(record)
            case EmbeddingUpdated():
                self._embedding(record)
            case SnapshotWritten():
                labels = self._labels(record.stage)
                families.snapshots.labels(*labels).observe(record.seconds)
                families.snapshot_bytes.labels(*labels).inc(record.bytes)
            case StageRecovered():
                labels = self._labels(record.stage)
                families.recovery_seconds.labels(*labels).observe(record.seconds)
                families.replayed.labels(*labels).inc(max(0, record.replayed_steps))
            case WorkerLost():
                self._lost(record)
            case WorkerReady():
                self._started(record.worker)
            case StageFailed():
                error_type = record.cause.partition(":")[0]
                families.failures.labels(*self._labels(record.stage), error_type).inc()
            case Evaluated():
                families.accuracy.labels(self._run, record.split, record.sampler).set(record.accuracy)
            case ObjectiveMeasured():
                self._objective(record)

    def close(self) -> None:
        """Stop serving."""
        if self._discovery is not None:
            self._discovery.remove()
        self._endpoint.close()

    def _describe(self, plan: RunPlan) -> None:
        config = plan.config
        labels = (config.data.name, str(config.blocks.count), config.embedding.kind, config.classifier.kind)
        self._families.run.labels(self._run, *labels).set(1)
        self._families.build.labels(__version__, platform.python_version(), torch.__version__).set(1)
        self._families.target_steps.labels(self._run).set(plan.total_steps)
        for stage in plan.stages:
            self._families.show_zero(self._run, stage)

    def _started(self, worker: str) -> None:
        restarts = self._families.restarts
        self._missing.discard(worker)
        if worker != "coordinator":
            for reason in ("died", "hung"):
                restarts.labels(self._run, worker, reason)
            return
        resumed = restarts.labels(self._run, worker, "resumed")
        if self._had_coordinator:
            resumed.inc()
        self._had_coordinator = True

    def _lost(self, record: WorkerLost) -> None:
        """Count a loss once: until Ray has noticed that a node is gone, it starts the next process there, too."""
        if record.worker not in self._missing:
            self._missing.add(record.worker)
            self._families.restarts.labels(self._run, record.worker, record.reason).inc()

    def _round(self, record: RoundDone) -> None:
        families, labels = self._families, self._labels(record.stage)
        self._trains = True
        new = self._new_steps(record.stage, record.step)
        families.steps.labels(*labels).inc(new)
        families.samples.labels(*labels).inc(new * self._batch_size)
        families.loss.labels(*labels).set(record.loss)
        families.gradient_norm.labels(*labels).set(record.gradient_norm)
        families.step_seconds.labels(*labels).observe(record.seconds / record.steps)
        if record.stage.is_block:
            families.error.labels(*labels).set(record.error)
        if record.queue_seconds is not None:
            families.queue_seconds.labels(*labels).observe(record.queue_seconds)
        if record.worker is not None:
            families.memory.labels(self._run, record.worker).set(record.peak_memory_bytes)

    def _new_steps(self, stage: Stage, step: int) -> int:
        """Steps that were not counted yet: none where a record comes twice, more than its own where one is missing."""
        new = max(0, step - self._counted.get(stage, 0))
        self._counted[stage] = self._counted.get(stage, 0) + new
        return new

    def _embedding(self, record: EmbeddingUpdated) -> None:
        families, labels = self._families, self._labels(EMBEDDING)
        families.steps.labels(*labels).inc(self._new_steps(EMBEDDING, record.step))
        families.embedding_mean_norm.labels(self._run).set(record.mean_norm)
        families.embedding_least_distance.labels(self._run).set(record.least_distance)
        if record.queue_seconds is not None:
            families.queue_seconds.labels(*labels).observe(record.queue_seconds)

    def _objective(self, record: ObjectiveMeasured) -> None:
        objective = self._families.objective
        for term, value in (("cross_entropy", record.cross_entropy), ("kl", record.kl), ("elbo", record.elbo)):
            objective.labels(self._run, term, "").set(value)
        for block, value in enumerate(record.denoising_terms, start=1):
            objective.labels(self._run, "denoising", str(block)).set(value)

    def _labels(self, stage: Stage) -> tuple[str, str]:
        return self._run, stage.label

    def _healthy(self) -> bool:
        return time.monotonic() - self._last_turn < HEALTHY_SECONDS


@contextmanager
def exporting(directory: str, plan: RunPlan, host: str, stop: threading.Event) -> Iterator[MetricsExporter | None]:
    """Serve a run's metrics within a `with`, and `metrics.linger_seconds` longer; nothing without `metrics.port`.

    Args:
        directory: of the run; its last part is the label `run`.
        plan: of the run.
        host: of this machine, as others reach it.
        stop: ends the time beyond the `with`.
    """
    settings = plan.config.metrics
    if settings.port is None:
        yield None
        return
    exporter = MetricsExporter(directory.rpartition("/")[2], plan, settings, host)
    try:
        yield exporter
        stop.wait(settings.linger_seconds)
    finally:
        exporter.close()
