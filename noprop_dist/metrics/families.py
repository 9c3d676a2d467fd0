"""Every metric of a run, as Prometheus knows it: names, units, help texts and buckets."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from noprop_dist.stages import EMBEDDING, Stage

STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""From a small network on a GPU to the paper's on a slow core."""
WAIT_SECONDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
RUN = ("run",)
BLOCK = ("run", "block")
"""`block` is a stage's label: 1 … T, classifier, or embedding if W_embed is learned."""


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

        self.build = gauge("build_info", "Versions of the software; always 1.", ("version", "python", "torch"))
        self.run = gauge("run_info", "What is trained; always 1.", ("run", "data", "blocks", "embedding", "classifier"))
        self.target_steps = gauge("target_steps", "Steps of every block at the end of the run.", RUN)
        self.steps = counter(
            "block_steps",
            "Optimiser steps of a block or the classifier, none counted twice; "
            'for block="embedding", steps of the blocks whose gradients W_embed has taken in.',
        )
        self.samples = counter("samples", "Training samples that a block or the classifier has seen.")
        self.replayed = counter("replayed_steps", "Steps done again after the loss of a worker.")
        self.loss = gauge("loss", "What a block or the classifier minimises, mean over the last round.")
        self.error = gauge(
            "denoising_squared_error",
            "Squared error of a block's prediction of the class embedding, mean over the last round.",
        )
        self.gradient_norm = gauge(
            "gradient_norm",
            "Norm of the gradient of a block or the classifier before clipping, mean over the last round.",
        )
        self.embedding_mean_norm = gauge(
            "embedding_mean_norm", "Mean length of the class embeddings in the last version of a learned W_embed.", RUN
        )
        self.embedding_least_distance = gauge(
            "embedding_least_distance",
            "Distance between the two closest class embeddings in the last version of a learned W_embed.",
            RUN,
        )
        self.step_seconds = histogram(
            "block_step_seconds", "Seconds of a step of a block or the classifier, mean of each round.", STEP_SECONDS
        )
        self.queue_seconds = histogram(
            "round_queue_seconds",
            "From sending a round (or an update of W_embed) to its report, less the seconds of its computation.",
            WAIT_SECONDS,
        )
        self.memory = gauge("worker_peak_memory_bytes", "Most memory that a worker has used.", ("run", "worker"))
        self.restarts = counter(
            "restarts",
            "Actors that were lost and started again; a process that is lost before it was ready is not counted again.",
            ("run", "worker", "cause"),
        )
        self.recovery_seconds = histogram("recovery_seconds", "From a loss to training again.", WAIT_SECONDS)
        self.failures = counter("failures", "Blocks that were stopped for good.", ("run", "block", "cause"))
        self.snapshots = histogram("snapshot_seconds", "Seconds to write a snapshot.", WAIT_SECONDS)
        self.snapshot_bytes = counter("snapshot_bytes", "Bytes of the snapshots that were written.")
        self.accuracy = gauge(
            "accuracy_ratio",
            "Share of held-out samples that the classifier gets right on z_T.",
            ("run", "split", "sampler"),
        )
        self.objective = gauge(
            "objective_nats",
            "Terms of Eq. 8 on held-out data, per sample: denoising of each block, cross_entropy, kl, and elbo.",
            ("run", "term", "block"),
        )

    def show_zero(self, run: str, stage: Stage) -> None:
        """Show a stage's counters at 0: Prometheus sees no increase in a counter that begins at 1."""
        shared = (self.steps, self.replayed, self.snapshot_bytes)
        waits = (self.queue_seconds, self.recovery_seconds, self.snapshots)
        own = () if stage == EMBEDDING else (self.samples, self.step_seconds)
        for family in (*shared, *waits, *own):
            family.labels(run, stage.label)
        self.failures.labels(run, stage.label, "NonFiniteError")
