"""Where and how a run is run, kept and watched: nothing here changes its result."""

from typing import Annotated, Literal

from pydantic import Field

from noprop_dist.configuration.networks import Settings

Positive = Annotated[int, Field(ge=1)]


class EngineSettings(Settings):
    """Where and how the blocks are run; nothing here changes a result."""

    kind: Literal["ray", "sequential"] = "ray"
    address: str | None = Field(
        None, description="a running Ray cluster (default: $RAY_ADDRESS, else a Ray of our own)"
    )
    workers: Positive | Literal["auto"] = Field("auto", description="block worker actors (auto: one a GPU or core)")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads_per_worker: Positive = Field(1, description="CPU threads of a worker; part of what fixes the bits")
    round_steps: Positive | Literal["auto"] = Field(
        "auto", description="steps sent to a block in one message (auto: 16, on a GPU 256)"
    )
    prefetch: Positive = Field(2, description="rounds in flight for each block")
    sampling: Literal["auto", "coordinator", "worker"] = Field(
        "auto",
        description="who draws z (auto: the workers where z is large, GPUs are many or cores few); always the same",
    )
    cuda_graphs: Literal["auto", "always", "never"] = Field(
        "auto",
        description="record a block's step on a GPU once, then replay it (auto: if it can be); same bits",
    )
    blocks_at_once: Positive | Literal["auto"] = Field(
        "auto", description="blocks that a worker trains at the same time (auto: up to 8 on a GPU, 1 on a CPU)"
    )
    blocks_per_worker: Positive | None = Field(
        None, description="most blocks that a worker holds at a time; the others wait their turn (default: no limit)"
    )
    max_failures: int = Field(
        8, ge=-1, description="lost workers that one block may have been training on, -1 is any number"
    )
    start_timeout_seconds: float = Field(120, gt=0, description="for the first worker to start")
    move_after_seconds: float = Field(
        30, gt=0, description="blocks of a lost or missing worker wait so long for it, then they move to others"
    )
    hang_seconds: float = Field(
        20, gt=0, description="without reply, and ten times its slowest round, before a worker counts as hung"
    )
    stall_timeout_seconds: float = Field(1800, gt=0, description="the same before a worker's first round is done")
    grace_seconds: float = Field(
        30, gt=0, description="for snapshots after SIGTERM or Ctrl-C; a second Ctrl-C ends at once"
    )


class EvaluationSettings(Settings):
    """What the evaluator does while training goes on."""

    samples: int = Field(
        512, ge=0, description="of the test and of the validation set, at each checkpoint; 0 is no evaluation at all"
    )


class CheckpointSettings(Settings):
    """When the state of all blocks is kept."""

    every_steps: Positive | None = Field(None, description="default: an epoch, but at least five in a run")
    num_to_keep: Positive = Field(2, description="complete checkpoints kept in the run directory")
    snapshot_every_steps: Positive | Literal["auto"] = Field(
        "auto", description="each block's own snapshots between checkpoints, from which it recovers"
    )
    storage_timeout_seconds: float = Field(
        600, gt=0, description="training goes on in memory for so long while the run directory cannot be written"
    )

    def steps_between(self, total_steps: int, steps_per_epoch: int) -> int:
        """Steps from one checkpoint to the next."""
        return self.every_steps or min(max(steps_per_epoch, 1), -(-total_steps // 5))


class MetricsSettings(Settings):
    """The Prometheus endpoint on the coordinator's node."""

    port: int | None = Field(
        9464,
        ge=0,
        le=65535,
        description="0 is any free port, null is no endpoint; a taken port moves to a free one",
    )
    host: str = Field("127.0.0.1", description="the address to listen on; 0.0.0.0 is every network of the node")
    discovery: str | None = Field(
        None, description="a folder for Prometheus's file_sd_configs, where a file tells of this run's endpoint"
    )
    linger_seconds: float = Field(
        0, ge=0, description="the endpoint stays so long after the end, for a last scrape of the final figures"
    )
