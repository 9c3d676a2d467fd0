"""The blocks of a run, their networks, and how single ones are trained."""

from numbers import Integral
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from noprop_dist.config.refusals import shortened
from noprop_dist.config.sections.base import ChangesBits, ChangesBlocks, Positive, Settings
from noprop_dist.errors import UserError

MOST_LAYERS = 1000


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
    depth: ChangesBits[int] = Field(2, ge=1, le=MOST_LAYERS, description="hidden layers after input and z are joined")


class VitNetwork(Settings):
    """A vision transformer, for images whose sides `patch` divides. Its defaults train on digits in seconds."""

    kind: ChangesBits[Literal["vit"]] = "vit"
    patch: ChangesBits[Positive] = Field(2, description="side of a patch in pixels; divides both sides of the images")
    width: ChangesBits[Positive] = Field(64, description="size of a token")
    layers: ChangesBits[int] = Field(2, ge=1, le=MOST_LAYERS, description="layers of one block")
    stack: ChangesBits[int | None] = Field(
        None,
        ge=1,
        le=MOST_LAYERS,
        description="layers of all blocks together, shared out as evenly as possible (the first blocks get one more); "
        "in place of `layers`",
    )
    heads: ChangesBits[Positive] = Field(4, description="heads of attention; divides `width`")
    mlp_ratio: ChangesBits[Positive] = Field(4, description="width of an MLP's hidden layer, in widths of a token")
    z_enters: ChangesBits[Literal["token", "adaln"]] = Field(
        "token", description="z is a token beside those of the image, or it modulates every layer (AdaLN-zero)"
    )
    dropout: ChangesBits[float] = Field(
        0.0, ge=0, lt=1, description="rate of dropout of what a layer adds to its tokens"
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "VitNetwork":
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}")
        return self


class TorchvisionNetwork(Settings):
    """Any torchvision classification backbone as the image path."""

    kind: ChangesBits[Literal["torchvision"]] = "torchvision"
    backbone: ChangesBits[str] = Field("resnet18", description="a name that torchvision.models.list_models() prints")
    width: ChangesBits[Positive] = Field(256, description="width of the backbone's output and of the head")


class CustomNetwork(Settings):
    """Your own torch.nn.Module: (x, z) → logits, or (x, z, log_snr) → logits with blocks.noise.kind=range.

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
    PaperNetwork | SmallConvNetwork | MlpNetwork | VitNetwork | TorchvisionNetwork | CustomNetwork | GivenNetwork,
    Field(discriminator="kind"),
]


MOST_CHAIN_STEPS = 10_000
"""From noise to label: of T blocks that take k steps each."""


def check_chain_steps(setting: str, steps_per_block: int, blocks: int) -> None:
    """Refuse steps per block, as the setting of this name has them, that make a chain too long.

    Raises:
        UserError: as described.
    """
    if blocks * steps_per_block > MOST_CHAIN_STEPS:
        raise UserError(
            f"{setting}={steps_per_block}: a chain of {blocks} block(s) may take {MOST_CHAIN_STEPS:,} steps in all, so "
            f"at most {MOST_CHAIN_STEPS // blocks:,} a block"
        )


class NoiseSettings(Settings):
    """The noise levels that a block is trained on (docs/explanation/mathematics.md)."""

    kind: ChangesBits[Literal["point", "range"]] = Field(
        "point",
        description="point: block t has the level of z_{t-1} alone (NoProp-DT); range: all levels from there to z_t, "
        "and its network is told which (NoProp-CT where T = 1, DiffusionBlocks)",
    )
    density: ChangesBits[Literal["log-uniform", "log-normal"]] = Field(
        "log-uniform", description="kind range: how levels are drawn, uniformly in ln SNR or ln σ ~ N(-1.2, 1.2²)"
    )
    weight: ChangesBits[Literal["snr", "edm"]] = Field(
        "snr", description="kind range: how much levels count, as in Eq. 8's integral or as in EDM"
    )
    overlap: ChangesBits[float] = Field(
        0.05,
        ge=0,
        le=1,
        description="kind range: share of its width by which a range is longer at both ends, in training",
    )
    width: ChangesBits[float] = Field(
        1, ge=0, le=1, description="kind range: share of the levels up to the next block; 0 is kind point"
    )

    @property
    def is_wide(self) -> bool:
        """Return True if a block has more than one level, so that its network is told which."""
        return self.kind == "range" and self.width > 0


class BlockTrainingSettings(Settings):
    """How a single block is trained; what is not given is as in `training`."""

    learning_rate: ChangesBits[float | None] = Field(None, gt=0)
    weight_decay: ChangesBits[float | None] = Field(None, ge=0)
    gradient_clip: ChangesBits[float | None] = Field(None, gt=0, description="largest gradient norm")


class BlockSettings(Settings):
    """The T denoising blocks and their networks."""

    count: ChangesBits[int] = Field(10, ge=1, le=MOST_CHAIN_STEPS, description="T")
    only: ChangesBlocks[tuple[Positive, ...] | None] = Field(
        None, description="train these blocks alone, e.g. [1, 2, 5] or 1-5,8 (default: all)"
    )
    noise: NoiseSettings = NoiseSettings()
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

    @model_validator(mode="after")
    def _every_block_has_a_layer(self) -> "BlockSettings":
        for key, layers in self.stacks().items():
            if layers < self.count:
                raise ValueError(
                    f"{key}.stack={layers} must be at least count={self.count}, so that every block has a layer"
                )
        return self

    def trained(self) -> tuple[int, ...]:
        """The blocks that this run trains, in rising order."""
        return tuple(sorted(self.only)) if self.only is not None else tuple(range(1, self.count + 1))

    def network_of(self, block: int) -> NetworkSettings:
        """The network settings of one block. Of a stack of layers it has the block's part."""
        network = self.networks.get(block, self.network)
        if not isinstance(network, VitNetwork) or network.stack is None:
            return network
        layers = slice_layers(network.stack, self.count)[block - 1]
        return network.model_copy(update={"layers": layers, "stack": None})

    def stacks(self) -> dict[str, int]:
        """The layers of each stack that is cut into blocks, by the key of its network in this section."""
        named = {"network": self.network, **{f"networks.{block}": each for block, each in self.networks.items()}}
        return {key: each.stack for key, each in named.items() if isinstance(each, VitNetwork) and each.stack}


def slice_layers(total: int, blocks: int) -> tuple[int, ...]:
    """Cut a stack of layers into blocks, as evenly as possible; the first blocks get the remainder.

    `slice_layers(8, 3)` is (3, 3, 2).

    Args:
        total: layers of the stack.
        blocks: T.

    Returns:
        The number of layers of each block.

    Raises:
        UserError: one of them is no whole number of at least 1, or there are fewer layers than blocks.
    """
    for name, number in (("total", total), ("blocks", blocks)):
        if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
            raise UserError(f"{name}={shortened(number)}: must be a whole number, at least 1")
    if blocks > total:
        raise UserError(f"blocks={blocks}: must be within 1..{total}, so that every block has a layer")
    share, remainder = divmod(total, blocks)
    return (share + 1,) * remainder + (share,) * (blocks - remainder)


def _parse_ranges(text: str) -> tuple[int, ...]:
    """'1-3,8' → (1, 2, 3, 8)."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r} is no list of blocks such as 1-5,8")
        if max(len(first), len(last)) > 5:
            raise ValueError(f"{part.strip()!r} is no block, blocks are 1..10,000 at most")
        begin, end = int(first), int(last if dash else first)
        if begin > end:
            raise ValueError(f"{part.strip()!r} runs backwards, write {end}-{begin}")
        numbers += range(begin, end + 1)
    return tuple(numbers)
