"""The settings of a run: one frozen, typed configuration that is enough to do the run again.

Sections stand here in the order of `RunConfig`, which closes the file. Every setting is marked with what it changes
of a result, and a result is the weights of its stages, bit for bit:

    ChangesBits          other weights: the seed, the batch size, the device
    ChangesBaselineBits  other weights with method=backprop only: how many processes share a batch
    ChangesBlocks        no weight, but which blocks the result has
    KeepsBits            nothing: where, how fast and how safely a run goes, and what is said about it

`config.bits` reads the marks. `train --or-resume`, `resume` and `merge` decide by them alone.
"""

from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from noprop_dist.config.refusals import sentences
from noprop_dist.diffusion.schedule import Schedule, cosine, equal_probability, linear
from noprop_dist.errors import UserError
from noprop_dist.printable import has_secrets


class Mark(Enum):
    """What a setting changes of a result."""

    BITS = "bits"
    BASELINE_BITS = "bits of the baseline"
    BLOCKS = "blocks"
    NOTHING = "nothing"


Value = TypeVar("Value")
ChangesBits = Annotated[Value, Mark.BITS]
ChangesBaselineBits = Annotated[Value, Mark.BASELINE_BITS]
ChangesBlocks = Annotated[Value, Mark.BLOCKS]
KeepsBits = Annotated[Value, Mark.NOTHING]

Positive = Annotated[int, Field(ge=1, lt=2**31)]
OpenUnit = Annotated[float, Field(gt=0, lt=1)]
Seconds = Annotated[float, Field(gt=0, le=1e9)]
"""At most 31 years: no system can be asked to wait for much more."""


class Settings(BaseModel):
    """Base of all sections: frozen; unknown keys are refused, and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse it.

        Raises:
            UserError: always.
        """
        raise UserError(f"{name}={value!r}: settings are fixed once they are made; RunConfig(…) makes others")

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_is_a_number(cls, values: Any) -> Any:
        """Pydantic takes False for 0, and `metrics.port: false` would open any free port."""
        for name, field in cls.model_fields.items() if isinstance(values, dict) else ():
            value = values.get(name)
            if _holds_boolean(value) and _is_numeric(field.annotation):
                raise PydanticCustomError(
                    "boolean",
                    "{value} is not allowed: true and false are no numbers",
                    {"setting": name, "value": repr(value)},
                )
        return values


def _is_numeric(annotation: Any) -> bool:
    parts = get_args(annotation)
    return annotation in (int, float) or (bool not in parts and any(map(_is_numeric, parts)))


def _holds_boolean(value: Any) -> bool:
    parts = value if isinstance(value, list | tuple | dict) else ()  # of a mapping its keys: sections check their own
    return isinstance(value, bool) or any(map(_holds_boolean, parts))


# --- data ------------------------------------------------------------------------------------------------------------


class AugmentSettings(Settings):
    """Random changes to training images, keyed by (seed, epoch, sample)."""

    crop_padding: ChangesBits[int] = Field(
        0, ge=0, le=1024, description="pad by this many pixels, then crop at random to the old size; 0 is off"
    )
    flip: ChangesBits[bool] = Field(False, description="mirror left-right with probability 1/2")


class DataSettings(Settings):
    """The data set. Its samples have a fingerprint of their own, so the place they lie in changes no bits."""

    name: ChangesBits[
        Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "image-folder", "npz", "packed", "given"]
    ] = Field("digits", description="given: handed over in Python, `train(config, data=…)`")
    root: KeepsBits[str | None] = Field(
        None,
        description="torchvision's root folder (default: data), the image folder, the .npz file, or a packed folder",
    )
    download: KeepsBits[bool] = Field(True, description="let torchvision download what is missing under root")
    validation_fraction: ChangesBits[float] = Field(0.1, gt=0, lt=0.5, description="held out of the training set")
    test_fraction: ChangesBits[float] = Field(
        0.2, gt=0, lt=0.9, description="held out as test set if the data has none (image-folder, npz, given)"
    )
    image_size: ChangesBits[int | None] = Field(
        None, ge=1, le=8192, description="image-folder: resize to this many pixels a side"
    )
    classes: ChangesBits[int | None] = Field(
        None,
        ge=1,
        le=100_000,
        description="npz, given: number of classes, labels being 0..classes−1 (default: those of the training set)",
    )
    columns: KeepsBits[tuple[str, str] | None] = Field(
        None, description="given: columns of image and label of a Hugging Face Dataset (default: found by their types)"
    )
    augment: AugmentSettings = AugmentSettings()

    @model_validator(mode="after")
    def _root_is_given(self) -> "DataSettings":
        if self.name in ("image-folder", "npz", "packed") and self.root is None:
            raise ValueError(f"root must be given for data.name={self.name}")
        return self


# --- the mathematics: schedule and class embeddings ------------------------------------------------------------------


class ScheduleSettings(Settings):
    """The noise schedule ᾱ_0 < … < ᾱ_T (docs/explanation/mathematics.md)."""

    kind: ChangesBits[Literal["cosine", "linear", "equal-probability", "list"]] = "cosine"
    alpha_bar_min: ChangesBits[OpenUnit | None] = Field(
        None, description="ᾱ_0 (default 1e-4, lower for very many blocks)"
    )
    alpha_bar_max: ChangesBits[OpenUnit | None] = Field(
        None, description="ᾱ_T (default 0.999, higher for very many blocks)"
    )
    alpha_bar: ChangesBits[tuple[float, ...] | None] = Field(None, description="kind list: the T + 1 values, rising")

    @model_validator(mode="after")
    def _list_has_values(self) -> "ScheduleSettings":
        if (self.kind == "list") != (self.alpha_bar is not None):
            raise ValueError("alpha_bar is given exactly where schedule.kind=list")
        return self


class EmbeddingSettings(Settings):
    """The class embeddings W_embed (m × d)."""

    kind: ChangesBits[Literal["onehot", "learned", "prototype"]] = Field(
        "onehot", description="the identity; learned from a random start; learned from a typical image of each class"
    )
    dim: ChangesBits[Positive | None] = Field(None, description="kind learned: d (default 20)")
    learning_rate: ChangesBits[float] = Field(1e-3, gt=0, description="of W_embed, if it is learned")
    sync_steps: ChangesBits[Positive] = Field(
        32, description="steps that a version of a learned W_embed lasts; 1 is a joint update at every step"
    )

    @property
    def is_learned(self) -> bool:
        """Return True if W_embed moves, so that the blocks share it."""
        return self.kind != "onehot"

    @model_validator(mode="after")
    def _dim_fits(self) -> "EmbeddingSettings":
        if self.dim is not None and self.kind != "learned":
            raise ValueError(f"embedding.dim={self.dim} is only for embedding.kind=learned; {self.kind} has its own")
        return self


# --- networks of the blocks ------------------------------------------------------------------------------------------


class PaperNetwork(Settings):
    """The paper's block (Figure 6, left), for images of at least 4×4 pixels."""

    kind: ChangesBits[Literal["paper"]] = "paper"
    dropout: ChangesBits[float] = Field(0.2, ge=0, lt=1, description="rate of dropout in the image path")
    dropout_unit: ChangesBits[Literal["element", "channel"]] = Field(
        "element", description="what is dropped: elements as in the paper, or whole channels (faster on CPU)"
    )


class SmallConvNetwork(Settings):
    """Two convolutions and a small head, for images of about 8×8 pixels."""

    kind: ChangesBits[Literal["small-conv"]] = "small-conv"
    channels: ChangesBits[tuple[Positive, Positive]] = Field((16, 32), description="channels of the two convolutions")
    width: ChangesBits[Positive] = Field(128, description="width of the linear layers")


class MlpNetwork(Settings):
    """Linear layers over the flattened input and z, for vectors."""

    kind: ChangesBits[Literal["mlp"]] = "mlp"
    width: ChangesBits[Positive] = Field(256, description="width of the hidden layers")
    depth: ChangesBits[int] = Field(2, ge=1, le=1000, description="hidden layers after input and z are joined")


class TorchvisionNetwork(Settings):
    """Any torchvision classification backbone as the image path."""

    kind: ChangesBits[Literal["torchvision"]] = "torchvision"
    backbone: ChangesBits[str] = Field("resnet18", description="a name that torchvision.models.list_models() prints")
    width: ChangesBits[Positive] = Field(256, description="width of the backbone's output and of the head")


class CustomNetwork(Settings):
    """Your own torch.nn.Module: (x, z) → logits.

    It is built as Class(input_shape=…, classes=…, embedding_dim=…, **arguments).
    """

    kind: ChangesBits[Literal["custom"]] = "custom"
    path: ChangesBits[str] = Field(description="import path, package.module:Class")
    arguments: ChangesBits[dict[str, Any]] = Field(default_factory=dict, description="further keyword arguments")


class GivenNetwork(Settings):
    """A class or function that was handed over in Python, `train(config, network=…)`; built as a custom one is."""

    kind: ChangesBits[Literal["given"]] = "given"
    name: ChangesBits[str] = Field(description="of the class or function, for people")


NetworkSettings = Annotated[
    PaperNetwork | SmallConvNetwork | MlpNetwork | TorchvisionNetwork | CustomNetwork | GivenNetwork,
    Field(discriminator="kind"),
]


# --- blocks, classifier, objective -----------------------------------------------------------------------------------


class BlockTrainingSettings(Settings):
    """How a single block is trained; what is not given is as in `training`."""

    learning_rate: ChangesBits[float | None] = Field(None, gt=0)
    weight_decay: ChangesBits[float | None] = Field(None, ge=0)
    gradient_clip: ChangesBits[float | None] = Field(None, gt=0, description="largest gradient norm")


class BlockSettings(Settings):
    """The T denoising blocks and their networks."""

    count: ChangesBits[int] = Field(10, ge=1, le=10_000, description="T")
    only: ChangesBlocks[tuple[Positive, ...] | None] = Field(
        None, description="train these blocks alone, e.g. [1, 2, 5] or 1-5,8 (default: all)"
    )
    network: NetworkSettings = SmallConvNetwork()
    networks: dict[int, NetworkSettings] = Field(
        default_factory=dict, description="another network for single blocks, by block number"
    )
    training: dict[int, BlockTrainingSettings] = Field(
        default_factory=dict, description="another learning rate, decay or clipping for single blocks, by block number"
    )

    @field_validator("only", mode="before")
    @classmethod
    def _ranges(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return (value,)
        return _parse_ranges(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _blocks_exist(self) -> "BlockSettings":
        named = {"only": self.only or (), "networks": tuple(self.networks), "training": tuple(self.training)}
        for field, numbers in named.items():
            for number in numbers:
                if not 1 <= number <= self.count:
                    raise ValueError(f"{field} names block {number}, blocks are 1..{self.count}")
        if self.only is not None and (not self.only or len(set(self.only)) < len(self.only)):
            raise ValueError("only must name at least one block, and none twice")
        return self

    def trained(self) -> tuple[int, ...]:
        """The blocks that this run trains, in rising order."""
        return tuple(sorted(self.only)) if self.only is not None else tuple(range(1, self.count + 1))

    def network_of(self, block: int) -> NetworkSettings:
        """The network settings of one block."""
        return self.networks.get(block, self.network)


def _parse_ranges(text: str) -> tuple[int, ...]:
    """'1-3,8' → (1, 2, 3, 8)."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r} is no list of blocks such as 1-5,8")
        if max(len(first), len(last)) > 5:
            raise ValueError(f"{part.strip()!r} is no block, blocks are 1..10,000 at most")
        numbers += range(int(first), int(last if dash else first) + 1)
    return tuple(numbers)


class ClassifierSettings(Settings):
    """The classifier on z_T. It needs a learning rate of its own; its steps cost next to nothing."""

    kind: ChangesBits[Literal["linear", "radial"]] = Field(
        "linear", description="softmax over f(z_T), or distances to embeddings"
    )
    learning_rate: ChangesBits[float] = Field(2e-2, gt=0)
    sigma: ChangesBits[float] = Field(0.5, gt=0, description="kind radial: σ of Eq. 15, in units of the embeddings")


class ObjectiveSettings(Settings):
    """Eq. 8."""

    eta: ChangesBits[float] = Field(0.1, gt=0, description="η, the weight of the denoising term")


# --- training --------------------------------------------------------------------------------------------------------


class LearningRateSchedule(Settings):
    """How the learning rates of blocks and classifier move over the run (torch.optim.lr_scheduler)."""

    kind: ChangesBits[Literal["constant", "cosine", "step", "one-cycle"]] = "constant"
    warmup_steps: ChangesBits[int] = Field(0, ge=0, lt=2**31, description="rise linearly over the first so many steps")
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


# --- where and how a run goes ----------------------------------------------------------------------------------------


class ProfileSettings(Settings):
    """Profile some steps of one block with torch's profiler."""

    block: KeepsBits[Positive] = Field(description="number of the block")
    steps: KeepsBits[int] = Field(20, ge=1, le=200, description="steps to profile, after the first few of a process")


class EngineSettings(Settings):
    """Where and how the blocks are run. Only the device and its threads change bits: they order the sums."""

    kind: KeepsBits[Literal["ray", "sequential"]] = "ray"
    address: KeepsBits[str | None] = Field(
        None, description="a running Ray cluster (default: $RAY_ADDRESS, else a Ray of our own)"
    )
    # The baseline's processes share every batch, as replicas_per_block do. NoProp's workers share nothing.
    workers: ChangesBaselineBits[Positive | Literal["auto"]] = Field(
        "auto",
        description="block worker actors (auto: one a GPU or core, at most 16 on each); processes of the baseline",
    )
    device: ChangesBits[Literal["auto", "cpu", "cuda"]] = Field(
        "auto", description="that networks compute on (auto: a GPU if there is one); fixes the bits"
    )
    threads_per_worker: ChangesBits[Positive] = Field(1, description="CPU threads of a worker; fixes the bits")
    round_steps: KeepsBits[Positive | Literal["auto"]] = Field(
        "auto", description="steps sent to a block in one message (auto: 16, on a GPU 256)"
    )
    prefetch: KeepsBits[Positive] = Field(2, description="rounds in flight for each block")
    sampling: KeepsBits[Literal["auto", "coordinator", "worker"]] = Field(
        "auto",
        description="who draws z (auto: the workers if z is large, GPUs are many or cores few); always the same draws",
    )
    cuda_graphs: KeepsBits[Literal["auto", "always", "never"]] = Field(
        "auto", description="capture a block's step on a GPU once, then replay it (auto: if it can be)"
    )
    blocks_at_once: KeepsBits[Positive | Literal["auto"]] = Field(
        "auto", description="blocks that a worker trains at the same time (auto: up to 8 on a GPU, 1 on a CPU)"
    )
    blocks_per_worker: KeepsBits[Positive | None] = Field(
        None, description="most blocks that a worker holds at a time; the others wait their turn (default: no limit)"
    )
    max_failures: KeepsBits[int] = Field(
        8, ge=-1, lt=2**31, description="lost workers that one block may have been training on, -1 is any number"
    )
    start_timeout_seconds: KeepsBits[Seconds] = Field(
        120, description="for the first worker, or the baseline's processes, to start"
    )
    coordinator_timeout_seconds: KeepsBits[Seconds] = Field(
        60, description="without answer, before a coordinator is given up and another one goes on"
    )
    worker_timeout_seconds: KeepsBits[Seconds] = Field(
        600, description="without any block worker, before a run that has had one is saved and ended"
    )
    move_after_seconds: KeepsBits[Seconds] = Field(
        30, description="blocks of a lost or missing worker wait this long for it, then they move to others"
    )
    hang_seconds: KeepsBits[Seconds] = Field(
        20, description="without reply, and ten times its slowest round, before a worker counts as hung"
    )
    stall_timeout_seconds: KeepsBits[Seconds] = Field(
        1800, description="the same before a worker's first round is done"
    )
    profile: ProfileSettings | None = Field(
        None, description="{block: 3, steps: 20} writes a trace of them into profile/ (default: none)"
    )
    grace_seconds: KeepsBits[Seconds] = Field(
        30, description="for snapshots after SIGTERM or Ctrl-C; a second Ctrl-C ends at once"
    )


class EvaluationSettings(Settings):
    """What the evaluator does while training goes on."""

    samples: KeepsBits[int] = Field(
        512,
        ge=0,
        lt=2**31,
        description="of the test and of the validation set, at each checkpoint; 0 is no evaluation at all",
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

# --- the whole -------------------------------------------------------------------------------------------------------


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

    # What no section can check alone:

    @model_validator(mode="after")
    def _schedule_is_valid(self) -> "RunConfig":
        self.noise_schedule()
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
