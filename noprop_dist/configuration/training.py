"""Steps, batches, the optimiser, and the numbers that networks multiply in."""

from typing import Literal

from pydantic import Field, model_validator

from noprop_dist.configuration.networks import Settings
from noprop_dist.configuration.operation import Positive

Precision = Literal["float32", "tf32", "bfloat16"]


class LearningRateSchedule(Settings):
    """How the learning rates of blocks and classifier move over the run (torch.optim.lr_scheduler)."""

    kind: Literal["constant", "cosine", "step", "one-cycle"] = "constant"
    warmup_steps: int = Field(0, ge=0, description="rise linearly over so many steps first")
    step_size: Positive = Field(1000, description="kind step: steps between two drops")
    gamma: float = Field(0.1, gt=0, le=1, description="kind step: factor of each drop")

    @model_validator(mode="after")
    def _one_cycle_warms_up_itself(self) -> "LearningRateSchedule":
        if self.kind == "one-cycle" and self.warmup_steps:
            raise ValueError("warmup_steps must be 0 for kind one-cycle, which warms up by itself")
        return self


class TrainingSettings(Settings):
    """Steps, batches and the optimiser; the defaults are the paper's."""

    epochs: Positive = Field(40, description="passes over the training set")
    max_steps: Positive | None = Field(None, description="steps of every block; where given, epochs is not used")
    batch_size: int = Field(128, ge=2)
    replicas_per_block: Positive = Field(
        1, description="processes that train each block together, each on its share of every batch"
    )
    precision: Precision = Field(
        "float32",
        description="that networks multiply in; weights, losses and optimiser stay float32 (tf32 only differs on GPUs)",
    )
    channels_last: bool | Literal["auto"] = Field(
        "auto", description="how images lie in memory (auto: yes on a CPU, and for tf32 or bfloat16 on a GPU)"
    )
    compile: bool = Field(
        False, description="let torch.compile fuse each block's network; needs a C++ compiler or Triton"
    )
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-3, ge=0)
    gradient_clip: float | None = Field(None, gt=0, description="largest gradient norm of a block (default: none)")
    lr_schedule: LearningRateSchedule = LearningRateSchedule()

    def wants_channels_last(self, on_gpu: bool) -> bool:
        """Whether images lie in memory with all channels of a pixel side by side."""
        if self.channels_last == "auto":
            return not on_gpu or self.precision != "float32"
        return self.channels_last

    def steps(self, training_samples: int) -> int:
        """Steps of every block; an epoch's last, incomplete batch is left out."""
        return self.max_steps or self.epochs * (training_samples // self.batch_size)
