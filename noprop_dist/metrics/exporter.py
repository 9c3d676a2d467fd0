"""The metrics of one run: a fold over the records of metrics.jsonl, and a look at what goes on.

A coordinator that goes on with a run folds the records of the one before it, too, so that counters go on and do not
begin again.
"""

import platform
import socket
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

import torch
from prometheus_client import CollectorRegistry

from noprop_dist.config.schema import MetricsSettings
from noprop_dist.errors import UserError
from noprop_dist.metrics.discovery import DiscoveryFile
from noprop_dist.metrics.endpoint import Endpoint
from noprop_dist.metrics.families import Families, block_label
from noprop_dist.metrics.live import LiveCollector, LiveStage
from noprop_dist.storage.checkpoint_files import Record
from noprop_dist.training.setup import RunSetup

HEALTHY_SECONDS = 60.0
"""A coordinator whose loop has not turned for so long is stuck."""
ANY_ADDRESS = ("0.0.0.0", "::", "")


class MetricsExporter:
    """Serves a run's metrics until closed.

    Args:
        run: value of the label `run`.
        setup: of the run.
        settings: where to listen.
        node_address: of this node, as others reach it.

    Raises:
        UserError: this machine cannot listen on the host's address, or the discovery file cannot be written.
    """

    def __init__(self, run: str, setup: RunSetup, settings: MetricsSettings, node_address: str = "") -> None:
        assert settings.port is not None
        self._run = run
        self._batch_size = setup.config.training.batch_size
        self._registry = CollectorRegistry()
        self._families = Families(self._registry)
        self._describe(setup)
        self._had_coordinator, self._turned, self._trains = False, time.monotonic(), False
        self._endpoint = Endpoint(self._registry, settings.host, settings.port, self._healthy, lambda: self._trains)
        reached_at = node_address or socket.gethostname() if settings.host in ANY_ADDRESS else settings.host
        self.address = f"http://{reached_at}:{self._endpoint.port}/metrics"
        target = f"{reached_at}:{self._endpoint.port}"
        try:
            self._discovery = DiscoveryFile(settings.discovery, run, target) if settings.discovery else None
        except UserError:
            self._endpoint.close()
            raise

    def watch(self, look: Callable[[], Sequence[LiveStage]]) -> None:
        """Show what `look` says at every scrape."""
        self._registry.register(LiveCollector(self._run, look))

    def turned(self) -> None:
        """The coordinator's loop has turned once more."""
        self._turned = time.monotonic()

    def record(self, record: Record) -> None:
        """Take in one record of metrics.jsonl."""
        match record["kind"]:
            case "round":
                self._round(record)
            case "snapshot":
                labels = self._labels(record)
                self._families.snapshots.labels(*labels).observe(record["seconds"])
                self._families.snapshot_bytes.labels(*labels).inc(record["bytes"])
            case "recovery":
                labels = self._labels(record)
                self._families.recovery_seconds.labels(*labels).observe(record["seconds"])
                self._families.replayed.labels(*labels).inc(max(0, record["replayed_steps"]))
            case "lost":
                self._families.restarts.labels(self._run, record["worker"], record.get("reason", "died")).inc()
            case "worker":
                self._started(record["worker"])
            case "failure":
                cause = record["cause"].partition(":")[0]
                self._families.failures.labels(*self._labels(record), cause).inc()
            case "evaluation":
                self._families.accuracy.labels(self._run, record["split"], record["sampler"]).set(record["accuracy"])
            case "objective":
                self._objective(record)

    def close(self) -> None:
        """Stop serving."""
        if self._discovery is not None:
            self._discovery.remove()
        self._endpoint.close()

    def _describe(self, setup: RunSetup) -> None:
        config = setup.config
        labels = (config.data.name, str(config.blocks.count), config.embedding.kind, config.classifier.kind)
        self._families.run.labels(self._run, *labels).set(1)
        self._families.build.labels(version("noprop-dist"), platform.python_version(), torch.__version__).set(1)
        self._families.target_steps.labels(self._run).set(setup.total_steps)
        for stage in setup.stages:  # a counter that begins at one, and not at nought, has never increased
            self._families.begin(self._run, block_label(setup.stage_name(stage)))

    def _started(self, worker: str) -> None:
        restarts = self._families.restarts
        if worker != "coordinator":
            for reason in ("died", "hung"):
                restarts.labels(self._run, worker, reason)
            return
        resumed = restarts.labels(self._run, worker, "resumed")
        if self._had_coordinator:
            resumed.inc()
        self._had_coordinator = True

    def _round(self, record: Record) -> None:
        families, labels = self._families, self._labels(record)
        self._trains = True
        families.steps.labels(*labels).inc(record["steps"])
        families.samples.labels(*labels).inc(record["steps"] * self._batch_size)
        families.loss.labels(*labels).set(record["loss"])
        families.gradient_norm.labels(*labels).set(record["gradient_norm"])
        families.step_seconds.labels(*labels).observe(record["seconds"] / record["steps"])
        if record["stage"].startswith("block"):
            families.error.labels(*labels).set(record["error"])
        if "worker" in record:
            families.queue_seconds.labels(*labels).observe(record["queue_seconds"])
            families.memory.labels(self._run, record["worker"]).set(record["peak_memory_bytes"])

    def _objective(self, record: Record) -> None:
        objective = self._families.objective
        for term in ("cross_entropy", "kl", "elbo"):
            objective.labels(self._run, term, "").set(record[term])
        for block, value in enumerate(record["denoising_terms"], start=1):
            objective.labels(self._run, "denoising", str(block)).set(value)

    def _labels(self, record: Record) -> tuple[str, str]:
        return self._run, block_label(record["stage"])

    def _healthy(self) -> bool:
        return time.monotonic() - self._turned < HEALTHY_SECONDS
