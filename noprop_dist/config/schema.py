"""The settings of a run: one frozen, typed configuration that is enough to do the run again.

`sections` has the settings of each section, in the order of `RunConfig`; `sections.base` says how a setting is marked.
"""

from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from noprop_dist.config.refusals import sentences
from noprop_dist.config.sections.base import ChangesBits, KeepsBits, Settings
from noprop_dist.config.sections.blocks import (
    BlockSettings,
    CustomNetwork,
    GivenNetwork,
    MlpNetwork,
    NetworkSettings,
    NoiseSettings,
    PaperNetwork,
    SmallConvNetwork,
    TorchvisionNetwork,
    VitNetwork,
    check_chain_steps,
)
from noprop_dist.config.sections.data import AugmentSettings, DataSettings
from noprop_dist.config.sections.engine import EngineSettings, ProfileSettings
from noprop_dist.config.sections.mathematics import (
    ClassifierSettings,
    EmbeddingSettings,
    ObjectiveSettings,
    ScheduleSettings,
)
from noprop_dist.config.sections.output import CheckpointSettings, EvaluationSettings, MetricsSettings, Score, Tracker
from noprop_dist.config.sections.training import (
    EarlyStoppingSettings,
    LearningRateSchedule,
    Precision,
    TrainingSettings,
)
from noprop_dist.diffusion.noise_range import NoiseRange, range_of_block
from noprop_dist.diffusion.schedule import Schedule, cosine, equal_probability, linear
from noprop_dist.errors import UserError

__all__ = [
    "AugmentSettings",
    "BlockSettings",
    "CheckpointSettings",
    "ClassifierSettings",
    "CustomNetwork",
    "DataSettings",
    "EarlyStoppingSettings",
    "EmbeddingSettings",
    "EngineSettings",
    "EvaluationSettings",
    "GivenNetwork",
    "LearningRateSchedule",
    "MetricsSettings",
    "MlpNetwork",
    "NetworkSettings",
    "NoiseSettings",
    "ObjectiveSettings",
    "PaperNetwork",
    "Precision",
    "ProfileSettings",
    "RunConfig",
    "ScheduleSettings",
    "Score",
    "SmallConvNetwork",
    "TorchvisionNetwork",
    "Tracker",
    "TrainingSettings",
    "VitNetwork",
]


LEAST_MASS = 1e-9
"""Of a log-normal density in one block's range: with less, rounding would decide on levels."""


class RunConfig(Settings):
    """Everything that describes a run: `RunConfig(seed=1, blocks={"count": 5})`.

    Raises:
        UserError: a setting is not allowed; one sentence for each.
    """

    seed: ChangesBits[int] = Field(0, ge=0, lt=2**63, description="of everything that is drawn at random")
    method: ChangesBits[Literal["noprop", "backprop"]] = Field(
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
    tracking: KeepsBits[tuple[Tracker, ...]] = Field(
        (), description="experiment trackers that get the run's figures; each needs the extra of its name"
    )

    @field_validator("tracking", mode="before")
    @classmethod
    def _one_tracker(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def score(self) -> Score | None:
        """The figure that tells how good a checkpoint is; None where the last checkpoints are kept."""
        early = self.training.early_stopping is not None
        return self.checkpoint.score or ("validation accuracy" if early else None)

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise UserError("; ".join(sentences(type(self), error.errors()))) from error

    @staticmethod
    def preset(name: str, **settings: Any) -> "RunConfig":
        """The configuration of a preset, with other values: `RunConfig.preset("digits", blocks={"count": 10})`.

        Args:
            name: digits, mnist, fashion-mnist, cifar10 or cifar100.
            settings: sections as mappings; what they do not name is as in the preset.

        Raises:
            UserError: there is no such preset, or a setting is not allowed.
        """
        from noprop_dist.config.layers import merge, preset_layer, validated  # layers are made of this class

        return validated(merge(preset_layer(name), settings))

    @property
    def shares_embedding(self) -> bool:
        """Return True if stages that are trained apart share a W_embed that moves."""
        return self.method == "noprop" and self.embedding.is_learned

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

    def noise_ranges(self) -> tuple[NoiseRange, ...]:
        """The noise levels that blocks 1, …, T are trained on: one each, or a range."""
        schedule, noise = self.noise_schedule(), self.blocks.noise
        if noise.kind == "point":
            return tuple(NoiseRange(level, level) for level in schedule.alpha_bar[:-1])
        shape = {"width": noise.width, "overlap": noise.overlap}
        blocks = range(1, schedule.T + 1)
        return tuple(range_of_block(schedule, t, noise.density, noise.weight, **shape) for t in blocks)

    # What no section can check alone:

    @model_validator(mode="after")
    def _schedule_is_valid(self) -> "RunConfig":
        self.noise_schedule()
        return self

    @model_validator(mode="after")
    def _levels_can_be_drawn(self) -> "RunConfig":
        noise = self.blocks.noise
        ranges = self.noise_ranges() if noise.kind == "range" else ()
        for t, each in enumerate(ranges, start=1):
            if not 0 < each.lowest <= each.highest < 1:
                raise ValueError(
                    f"blocks.noise.overlap={noise.overlap:g}: the range of block {t} reaches to alpha_bar = "
                    f"{each.highest:.17g}, and must stay between 0 and 1"
                )
            if noise.is_wide and each.is_point:
                raise ValueError(
                    f"blocks.noise.width={noise.width:g}: block {t}'s range is too narrow for more than one level; "
                    "width=0 is one level, as in NoProp-DT"
                )
            if noise.density == "log-normal" and not each.is_point and each.mass < LEAST_MASS:
                raise ValueError(
                    f"blocks.noise.density=log-normal: block {t}'s range has a share of {each.mass:.1g} of all its "
                    f"levels, at least {LEAST_MASS:g} is needed; use log-uniform, a greater width or other levels"
                )
        return self

    @model_validator(mode="after")
    def _steps_go_through_a_range(self) -> "RunConfig":
        steps = self.evaluation.steps_per_block
        if steps > 1 and not self.blocks.noise.is_wide:
            raise ValueError(
                f"evaluation.steps_per_block={steps} needs blocks.noise.kind=range and a blocks.noise.width above 0: "
                "a block that was trained at one noise level takes one step"
            )
        check_chain_steps("evaluation.steps_per_block", steps, self.blocks.count)
        if steps > 1:
            self.noise_schedule().refined(steps)
        return self

    @model_validator(mode="after")
    def _a_learned_embedding_needs_every_block(self) -> "RunConfig":
        if self.shares_embedding and self.blocks.only is not None:
            raise ValueError(
                f"blocks.only is not allowed with embedding.kind={self.embedding.kind}: all blocks learn W_embed "
                "together; embedding.kind=onehot lets blocks be trained apart"
            )
        return self

    @model_validator(mode="after")
    def _backprop_needs_every_block_and_ray(self) -> "RunConfig":
        if self.method == "backprop" and self.blocks.only is not None:
            raise ValueError("blocks.only is not allowed with method=backprop, which trains all blocks end to end")
        if self.method == "backprop" and self.blocks.training:
            raise ValueError("blocks.training is not allowed with method=backprop, which has one optimiser for all")
        if self.method == "backprop" and self.training.init_from is not None:
            raise ValueError("training.init_from is not allowed with method=backprop, which begins anew")
        if self.method == "backprop" and self.engine.kind == "sequential":
            raise ValueError("engine.kind=sequential is not allowed with method=backprop, which Ray Train runs")
        return self

    @model_validator(mode="after")
    def _scores_are_measured(self) -> "RunConfig":
        early, score, backprop = self.training.early_stopping, self.checkpoint.score, self.method == "backprop"
        if early is not None and (self.blocks.only is not None or self.evaluation.samples == 0):
            other = "evaluation.samples=0" if self.blocks.only is None else "blocks.only"
            raise ValueError(f"training.early_stopping is not allowed with {other}: no checkpoint is measured")
        if early is not None and backprop:
            raise ValueError("training.early_stopping is not allowed with method=backprop, which takes all its steps")
        if backprop and score is not None and not score.endswith("accuracy"):
            raise ValueError(f"checkpoint.score={score} is not allowed with method=backprop, which has only accuracies")
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
    def _profiled_block_is_trained(self) -> "RunConfig":
        profile, trained = self.engine.profile, self.blocks.trained()
        if profile is not None and profile.block not in trained:
            blocks = "those of blocks.only" if self.blocks.only is not None else f"1..{self.blocks.count}"
            raise ValueError(f"engine.profile.block={profile.block}: there is no such block; blocks are {blocks}")
        return self

    @model_validator(mode="after")
    def _steps_can_be_captured(self) -> "RunConfig":
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
