"""A run, described completely: one frozen configuration that is enough to reproduce it."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from noprop_dist.configuration.blocks import BlockSettings
from noprop_dist.configuration.networks import Settings
from noprop_dist.configuration.operation import (
    CheckpointSettings,
    EngineSettings,
    EvaluationSettings,
    MetricsSettings,
    Positive,
)
from noprop_dist.configuration.training import TrainingSettings
from noprop_dist.diffusion.schedule import Schedule, cosine, equal_probability, linear

OpenUnit = Annotated[float, Field(gt=0, lt=1)]


class AugmentSettings(Settings):
    """Random changes to training images, keyed by (seed, epoch, sample)."""

    crop_padding: int = Field(0, ge=0, description="pad by so many pixels, then crop back at random; 0 is off")
    flip: bool = Field(False, description="mirror left-right with probability 1/2")


class DataSettings(Settings):
    """What is learned from."""

    name: Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "image-folder", "npz", "packed"] = "digits"
    root: str | None = Field(
        None,
        description="torchvision's root folder (default: data), the image folder, the .npz file, or a packed folder",
    )
    download: bool = Field(True, description="let torchvision download what is missing under root")
    validation_fraction: float = Field(0.1, gt=0, lt=0.5, description="held out of the training set")
    test_fraction: float = Field(
        0.2, gt=0, lt=0.9, description="held out as test set where the data brings none (image-folder, npz)"
    )
    image_size: Positive | None = Field(None, description="image-folder: resize to this many pixels a side")
    classes: Positive | None = Field(None, description="npz: number of classes (default: the largest label + 1)")
    augment: AugmentSettings = AugmentSettings()

    @model_validator(mode="after")
    def _root_is_given(self) -> "DataSettings":
        if self.name in ("image-folder", "npz", "packed") and self.root is None:
            raise ValueError(f"root must be given for data.name={self.name}")
        return self


class ScheduleSettings(Settings):
    """The noise schedule ᾱ_0 < … < ᾱ_T (docs/mathematics.md)."""

    kind: Literal["cosine", "linear", "equal-probability", "list"] = "cosine"
    alpha_bar_min: OpenUnit | None = Field(None, description="ᾱ_0 (default 1e-4, lower for very many blocks)")
    alpha_bar_max: OpenUnit | None = Field(None, description="ᾱ_T (default 0.999, higher for very many blocks)")
    alpha_bar: tuple[float, ...] | None = Field(None, description="kind list: the T + 1 values, rising")

    @model_validator(mode="after")
    def _list_has_values(self) -> "ScheduleSettings":
        if (self.kind == "list") != (self.alpha_bar is not None):
            raise ValueError("alpha_bar is given exactly where schedule.kind=list")
        return self


class EmbeddingSettings(Settings):
    """The class embeddings W_embed (m × d)."""

    kind: Literal["onehot", "learned", "prototype"] = Field(
        "onehot", description="the identity; learned from a random start; learned from a typical image of each class"
    )
    dim: Positive | None = Field(None, description="kind learned: d (default 20)")
    learning_rate: float = Field(1e-3, gt=0, description="of W_embed, where it is learned")
    sync_steps: Positive = Field(
        32, description="steps that a version of W_embed lasts where it is learned; 1 is a joint update at every step"
    )

    @property
    def is_learned(self) -> bool:
        """Whether blocks share something that moves."""
        return self.kind != "onehot"

    @model_validator(mode="after")
    def _dim_fits(self) -> "EmbeddingSettings":
        if self.dim is not None and self.kind != "learned":
            raise ValueError(f"embedding.dim={self.dim} is only for embedding.kind=learned; {self.kind} has its own")
        return self


class ClassifierSettings(Settings):
    """The classifier on z_T; its steps cost next to nothing and it needs a learning rate of its own."""

    kind: Literal["linear", "radial"] = Field("linear", description="softmax over f(z_T), or distances to embeddings")
    learning_rate: float = Field(2e-2, gt=0)
    sigma: float = Field(0.5, gt=0, description="kind radial: σ of Eq. 15, in units of the embeddings")


class ObjectiveSettings(Settings):
    """Eq. 8."""

    eta: float = Field(0.1, gt=0, description="η, the weight of the denoising term")


class RunConfig(Settings):
    """Everything that describes a run."""

    seed: int = Field(0, ge=0, lt=2**63)
    method: Literal["noprop", "backprop"] = Field(
        "noprop", description="backprop: the paper's baseline, the same blocks trained end to end (Eqs. 17-19)"
    )
    data: DataSettings = DataSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    blocks: BlockSettings = BlockSettings()
    classifier: ClassifierSettings = ClassifierSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()
    engine: EngineSettings = EngineSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    metrics: MetricsSettings = MetricsSettings()

    @model_validator(mode="after")
    def _schedule_is_valid(self) -> "RunConfig":
        self.noise_schedule()
        return self

    @property
    def shares_embedding(self) -> bool:
        """Whether stages that are trained apart share a W_embed that moves."""
        return self.method == "noprop" and self.embedding.is_learned

    @model_validator(mode="after")
    def _backprop_needs_every_block_and_ray(self) -> "RunConfig":
        if self.method == "backprop" and self.blocks.only is not None:
            raise ValueError("blocks.only is not allowed with method=backprop, which trains all blocks end to end")
        if self.method == "backprop" and self.blocks.training:
            raise ValueError("blocks.training is not allowed with method=backprop, which has one optimiser for all")
        if self.method == "backprop" and self.engine.kind == "sequential":
            raise ValueError("engine.kind=sequential is not allowed with method=backprop, which Ray Train runs")
        return self

    @model_validator(mode="after")
    def _replicas_share_batches_evenly(self) -> "RunConfig":
        replicas, batch_size = self.training.replicas_per_block, self.training.batch_size
        if batch_size % replicas or batch_size // replicas < 2:
            raise ValueError(
                f"training.replicas_per_block={replicas} must divide training.batch_size={batch_size}, "
                "into shares of at least 2"
            )
        if replicas > 1 and self.engine.blocks_at_once not in ("auto", 1):
            raise ValueError(
                f"engine.blocks_at_once={self.engine.blocks_at_once} is not allowed with training.replicas_per_block="
                f"{replicas}, whose processes do their sums in one order"
            )
        if replicas > 1 and (self.engine.kind == "sequential" or self.method == "backprop"):
            raise ValueError(
                f"training.replicas_per_block={replicas} needs engine.kind=ray and method=noprop; the baseline has "
                "engine.workers for its processes"
            )
        return self

    @model_validator(mode="after")
    def _steps_can_be_recorded(self) -> "RunConfig":
        if self.engine.cuda_graphs != "always":
            return self
        if self.training.replicas_per_block > 1:
            raise ValueError(
                "engine.cuda_graphs=always is not allowed with training.replicas_per_block > 1; use auto or never"
            )
        if self.training.lr_schedule.kind == "one-cycle":
            raise ValueError(
                "engine.cuda_graphs=always is not allowed with training.lr_schedule.kind=one-cycle, which changes more "
                "of the optimiser than its learning rate; use auto or never"
            )
        return self

    @model_validator(mode="after")
    def _a_learned_embedding_needs_every_block(self) -> "RunConfig":
        if self.shares_embedding and self.blocks.only is not None:
            raise ValueError(
                f"blocks.only is not allowed with embedding.kind={self.embedding.kind}: all blocks learn W_embed "
                "together; embedding.kind=onehot lets blocks be trained apart"
            )
        return self

    def training_of(self, block: int) -> TrainingSettings:
        """The training settings of one block."""
        own = self.blocks.training.get(block)
        return self.training.model_copy(update=own.model_dump(exclude_none=True)) if own else self.training

    def noise_schedule(self) -> Schedule:
        """The schedule of T = blocks.count blocks.

        Raises:
            UserError: ᾱ does not rise strictly within (0, 1), or a list has not T + 1 entries.
        """
        schedule, T = self.schedule, self.blocks.count
        ends = {
            name: value for name in ("alpha_bar_min", "alpha_bar_max") if (value := getattr(schedule, name)) is not None
        }
        match schedule.kind:
            case "cosine":
                return cosine(T, **ends)
            case "linear":
                return linear(T, **ends)
            case "equal-probability":
                return equal_probability(T, **ends)
            case "list":
                values = schedule.alpha_bar or ()
                if len(values) != T + 1:
                    raise ValueError(
                        f"schedule.alpha_bar has {len(values)} values, blocks.count={T} needs {T + 1} (t = 0..T)"
                    )
                return Schedule(values)
