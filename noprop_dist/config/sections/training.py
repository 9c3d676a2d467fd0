"""How blocks are trained: batches, precision, optimiser, and when a run ends."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from noprop_dist.config.sections.base import ChangesBits, KeepsBits, OpenUnit, Positive, Settings
from noprop_dist.printable import has_secrets


class LearningRateSchedule(Settings):
    """How the learning rates of blocks and classifier move over the run (torch.optim.lr_scheduler)."""

    kind: ChangesBits[Literal["constant", "cosine", "step", "one-cycle"]] = "constant"
    warmup_steps: ChangesBits[int] = Field(
        0, ge=0, lt=2**31, description="steps at the beginning, over which the rate rises linearly"
    )
    step_size: ChangesBits[Positive] = Field(1000, description="kind step: steps between two drops")
    gamma: ChangesBits[float] = Field(0.1, gt=0, le=1, description="kind step: factor of each drop")

    @model_validator(mode="after")
    def _one_cycle_warms_up_itself(self) -> "LearningRateSchedule":
        if self.kind == "one-cycle" and self.warmup_steps:
            raise ValueError("warmup_steps must be 0 for kind one-cycle, which warms up by itself")
        return self


class EarlyStoppingSettings(Settings):
    """When a run that gets no better ends: decided at checkpoints, by `checkpoint.score` or validation accuracy.

    It changes no weight of any step: only how many steps a run has. So a `resume` may change it.
    """

    patience: KeepsBits[Positive] = Field(
        3, description="measured checkpoints in a row without improvement, after which the run ends"
    )
    min_delta: KeepsBits[float] = Field(0.0, ge=0, description="an improvement is more than this")


Precision = Literal["float32", "tf32", "bfloat16"]


class TrainingSettings(Settings):
    """Steps, batches, arithmetic and the optimiser; the defaults are the paper's."""

    epochs: ChangesBits[int] = Field(40, ge=1, le=1_000_000, description="passes over the training set")
    max_steps: ChangesBits[int | None] = Field(
        None, ge=1, le=100_000_000, description="steps of every block; if given, epochs is not used"
    )
    batch_size: ChangesBits[int] = Field(128, ge=2, lt=2**31)
    replicas_per_block: ChangesBits[Positive] = Field(
        1, description="processes that train each block together, each on its share of every batch"
    )
    precision: ChangesBits[Precision] = Field(
        "float32",
        description="that networks multiply in; weights, losses and optimiser stay float32 (tf32 only differs on GPUs)",
    )
    channels_last: ChangesBits[bool | Literal["auto"]] = Field(
        "auto", description="how images lie in memory (auto: yes on a CPU, and for tf32 or bfloat16 on a GPU)"
    )
    compile: ChangesBits[bool] = Field(
        False, description="let torch.compile fuse each block's network; needs a C++ compiler or Triton"
    )
    optimizer: ChangesBits[Literal["adamw", "adam", "sgd"]] = "adamw"
    learning_rate: ChangesBits[float] = Field(1e-3, gt=0)
    weight_decay: ChangesBits[float] = Field(1e-3, ge=0)
    gradient_clip: ChangesBits[float | None] = Field(
        None, gt=0, description="largest gradient norm of a block (default: none)"
    )
    lr_schedule: LearningRateSchedule = LearningRateSchedule()
    init_from: ChangesBits[str | None] = Field(
        None,
        description="a run directory, path or URI: begin with the weights of its last checkpoint (default: none)",
    )
    ema_decay: ChangesBits[OpenUnit | None] = Field(
        None,
        description="evaluate and keep a moving average of the weights of blocks and classifier, e.g. 0.999; "
        "training itself stays the same (default: none)",
    )

    @field_validator("init_from")
    @classmethod
    def _no_secret_is_shown(cls, value: str | None) -> str | None:
        if value is not None and has_secrets(value):
            raise ValueError(
                "carries a secret that config.yaml would show; leave it out, and give credentials by the environment"
            )
        return value

    early_stopping: EarlyStoppingSettings | None = Field(
        None, description="end the run once it gets no better (default: never)"
    )

    def wants_channels_last(self, on_gpu: bool) -> bool:
        """Return True if images lie in memory with all channels of a pixel side by side."""
        if self.channels_last == "auto":
            return not on_gpu or self.precision != "float32"
        return self.channels_last

    def steps(self, training_samples: int) -> int:
        """Steps of every block; an epoch's last, incomplete batch is left out."""
        return self.max_steps or self.epochs * (training_samples // self.batch_size)
