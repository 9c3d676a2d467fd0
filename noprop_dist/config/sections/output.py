"""What is kept and told of a run: evaluations, checkpoints, metrics, trackers."""

from typing import Literal

from pydantic import Field

from noprop_dist.config.sections.base import ChangesChain, KeepsBits, Positive, Seconds, Settings


class EvaluationSettings(Settings):
    """What the evaluator does while training goes on."""

    samples: KeepsBits[int] = Field(
        512,
        ge=0,
        lt=2**31,
        description="of the test and of the validation set, at each checkpoint; 0 is no evaluation at all",
    )
    steps_per_block: ChangesChain[Positive] = Field(
        1, description="steps that each block takes through its range of noise levels (blocks.noise.kind=range)"
    )


Score = Literal[
    "validation accuracy",
    "validation nearest-embedding accuracy",
    "validation cross-entropy",
    "validation objective",
    "validation elbo",
]


class CheckpointSettings(Settings):
    """When the state of all blocks is kept.

    No cadence changes bits. If W_embed is learned, checkpoints are moved to the ends of its versions
    (embedding.sync_steps), never the versions to them.
    """

    every_steps: KeepsBits[Positive | None] = Field(None, description="default: an epoch, but at least five in a run")
    num_to_keep: KeepsBits[Positive] = Field(
        2, description="complete checkpoints kept in the run directory: the last, or with a score the best and the last"
    )
    score: KeepsBits[Score | None] = Field(
        None,
        description="the figure by which checkpoints are kept; the highest is the best, of cross-entropy and objective "
        "the lowest (default: the last ones are kept)",
    )
    snapshot_every_steps: KeepsBits[Positive | Literal["auto"]] = Field(
        "auto",
        description="each block's own snapshots between checkpoints, from which it recovers (auto: 64, on a GPU 2048)",
    )
    storage_timeout_seconds: KeepsBits[Seconds] = Field(
        600, description="training goes on in memory this long while the run directory cannot be written"
    )

    def steps_between(self, total_steps: int, steps_per_epoch: int) -> int:
        """Steps from one checkpoint to the next."""
        return self.every_steps or min(max(steps_per_epoch, 1), -(-total_steps // 5))


class MetricsSettings(Settings):
    """The Prometheus endpoint on the coordinator's node."""

    port: KeepsBits[int | None] = Field(
        9464,
        ge=0,
        le=65535,
        description="0 is any free port, null is no endpoint; a taken port moves to a free one",
    )
    host: KeepsBits[str] = Field(
        "127.0.0.1", description="the name or address to listen on, IPv4 or IPv6; 0.0.0.0 is every network of the node"
    )
    discovery: KeepsBits[str | None] = Field(
        None, description="a folder for Prometheus's file_sd_configs, where a file tells of this run's endpoint"
    )
    linger_seconds: KeepsBits[float] = Field(
        0,
        ge=0,
        le=1e9,
        description="the endpoint stays this long after the end, for a last scrape of the final figures",
    )


Tracker = Literal["tensorboard", "mlflow", "wandb"]
