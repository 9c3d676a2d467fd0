"""One Prometheus endpoint for a run, on a registry of its own."""

import errno

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from noprop_dist.errors import UserError
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.training.progress import RoundReport


class MetricsExporter:
    """Serves /metrics until closed; a taken port moves to a free one.

    Args:
        run: value of the label `run`.
        names: value of the label `block` of every stage ("1" … "T", "classifier").
        host: address to listen on.
        port: 0 is any free one.

    Raises:
        UserError: this machine cannot listen on the host's address.
    """

    def __init__(self, run: str, names: dict[int, str], host: str, port: int) -> None:
        registry = CollectorRegistry()
        labels = ("run", "block")
        self._run, self._names = run, names
        self._steps = Counter("noprop_block_steps", "Optimiser steps done.", labels, registry=registry)
        self._seconds = Counter(
            "noprop_block_step_seconds", "Seconds spent in optimiser steps.", labels, registry=registry
        )
        self._loss = Gauge("noprop_loss", "Loss, mean over the last round.", labels, registry=registry)
        self._error = Gauge(
            "noprop_denoising_squared_error",
            "Squared error of a block's prediction of the class embedding, mean over the last round.",
            labels,
            registry=registry,
        )
        self._norm = Gauge(
            "noprop_gradient_norm",
            "Norm of the gradient, mean over the last round.",
            labels,
            registry=registry,
        )
        self._accuracy = Gauge(
            "noprop_accuracy_ratio",
            "Share of held-out samples that the classifier decides right on z_T.",
            ("run", "split", "sampler"),
            registry=registry,
        )
        self._terms = Gauge(
            "noprop_objective_nats",
            "Terms of Eq. 8 on held-out data, per sample: denoising of each block, cross_entropy, kl, and elbo.",
            ("run", "term", "block"),
            registry=registry,
        )
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(f"metrics.host={host}: cannot be listened on: {error}") from error
            self._server, self._thread = start_http_server(0, host, registry)
        self.address = f"http://{host}:{self._server.server_port}/metrics"

    def round(self, report: RoundReport) -> None:
        """Count a round of one stage."""
        labels = (self._run, self._names[report.stage])
        self._steps.labels(*labels).inc(report.steps)
        self._seconds.labels(*labels).inc(report.seconds)
        self._loss.labels(*labels).set(report.loss)
        self._norm.labels(*labels).set(report.gradient_norm)
        if self._names[report.stage] != "classifier":
            self._error.labels(*labels).set(report.error)

    def evaluation(self, evaluation: CheckpointEvaluation) -> None:
        """Set the accuracies of a checkpoint, and the terms of its objective."""
        for split, result in evaluation.results:
            self._accuracy.labels(self._run, split, result.sampler).set(result.accuracy)
        terms = evaluation.terms
        if terms is None:
            return
        for term, value in (("cross_entropy", terms.cross_entropy), ("kl", terms.kl), ("elbo", terms.elbo)):
            self._terms.labels(self._run, term, "").set(value)
        for block, value in enumerate(terms.denoising_terms, start=1):
            self._terms.labels(self._run, "denoising", str(block)).set(value)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
