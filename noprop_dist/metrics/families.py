"""Every metric of a run, as Prometheus knows it: names, units, help texts and buckets."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""From a small network on a GPU to the paper's on a slow core."""
WAIT_SECONDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BLOCK = ("run", "block")


def block_label(stage: str) -> str:
    """Value of the label `block` of what people call a stage: 1 … T, classifier or embedding."""
    return stage.removeprefix("block ")


class Families:
    """The metrics on one registry.

    Args:
        registry: of one run; the process's own is left alone.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = BLOCK) -> Counter:
            return Counter(f"noprop_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = BLOCK) -> Gauge:
            return Gauge(f"noprop_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"noprop_{name}", text, BLOCK, buckets=buckets, registry=registry)

        self.build = gauge("build_info", "Versions of what runs; always 1.", ("version", "python", "torch"))
        self.run = gauge("run_info", "What is trained; always 1.", ("run", "data", "blocks", "embedding", "classifier"))
        self.target_steps = gauge("target_steps", "Steps of every block at the end of the run.", ("run",))
        self.steps = counter("block_steps", "Optimiser steps done; the same step is never counted twice.")
        self.samples = counter("samples", "Training samples that these steps have seen.")
        self.replayed = counter("replayed_steps", "Steps done again after the loss of a worker.")
        self.loss = gauge("loss", "What a block minimises, mean over the last round.")
        self.error = gauge(
            "denoising_squared_error",
            "Squared error of a block's prediction of the class embedding, mean over the last round.",
        )
        self.gradient_norm = gauge("gradient_norm", "Norm of the gradient before clipping, mean over the last round.")
        self.step_seconds = histogram("block_step_seconds", "Seconds of a step, mean of each round.", STEP_SECONDS)
        self.queue_seconds = histogram(
            "round_queue_seconds", "From sending a round to its report, less the seconds of its steps.", WAIT_SECONDS
        )
        self.memory = gauge("worker_peak_memory_bytes", "Most memory that a worker has used.", ("run", "worker"))
        self.restarts = counter("restarts", "Actors lost and made again.", ("run", "worker", "cause"))
        self.recovery_seconds = histogram("recovery_seconds", "From a loss to training again.", WAIT_SECONDS)
        self.failures = counter("failures", "Blocks that were stopped for good.", ("run", "block", "cause"))
        self.snapshots = histogram("snapshot_seconds", "Seconds to write a snapshot.", WAIT_SECONDS)
        self.snapshot_bytes = counter("snapshot_bytes", "Bytes of the snapshots that were written.")
        self.accuracy = gauge(
            "accuracy_ratio", "Share of held-out samples that are decided right on z_T.", ("run", "split", "sampler")
        )
        self.objective = gauge(
            "objective_nats",
            "Terms of Eq. 8 on held-out data, per sample: denoising of each block, cross_entropy, kl, and elbo.",
            ("run", "term", "block"),
        )

    def begin(self, run: str, block: str) -> None:
        """Show a block's counters before anything has happened to it."""
        counters = (self.steps, self.samples, self.replayed, self.snapshot_bytes)
        histograms = (self.step_seconds, self.queue_seconds, self.recovery_seconds, self.snapshots)
        for each in (*counters, *histograms):
            each.labels(run, block)
        self.failures.labels(run, block, "NonFiniteError")
