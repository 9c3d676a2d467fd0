"""The T denoising blocks: how many, which of them, and what may differ from one to the next."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from noprop_dist.configuration.networks import NetworkSettings, Settings, SmallConvNetwork
from noprop_dist.configuration.operation import Positive


class BlockTrainingSettings(Settings):
    """What may differ for a single block; what is not given is as in `training`."""

    learning_rate: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    gradient_clip: float | None = Field(None, gt=0, description="largest gradient norm")


class BlockSettings(Settings):
    """The T denoising blocks and their networks."""

    count: int = Field(10, ge=1, le=10_000, description="T")
    only: tuple[Positive, ...] | None = Field(
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
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"{text!r} is no list of blocks such as 1-5,8")
        numbers += range(int(first), int(last if dash else first) + 1)
    return tuple(numbers)
