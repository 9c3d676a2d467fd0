"""Settings of one block's network, one class per kind."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


Probability = Annotated[float, Field(ge=0, lt=1)]
Width = Annotated[int, Field(ge=1)]


class PaperNetwork(Settings):
    """The paper's block (Figure 6, left), for images of at least 4×4 pixels."""

    kind: Literal["paper"] = "paper"
    dropout: Probability = Field(0.2, description="rate of dropout in the image path")
    dropout_unit: Literal["element", "channel"] = Field(
        "element", description="what is dropped: elements as in the paper, or whole channels (faster on CPU)"
    )


class SmallConvNetwork(Settings):
    """Two convolutions and a small head, for images of about 8×8 pixels."""

    kind: Literal["small-conv"] = "small-conv"
    channels: tuple[Width, Width] = Field((16, 32), description="channels of the two convolutions")
    width: Width = Field(128, description="width of the linear layers")


class MlpNetwork(Settings):
    """Linear layers over the flattened input and z, for vectors."""

    kind: Literal["mlp"] = "mlp"
    width: Width = Field(256, description="width of the hidden layers")
    depth: int = Field(2, ge=1, description="hidden layers after input and z are joined")


class TorchvisionNetwork(Settings):
    """Any torchvision classification backbone as the image path."""

    kind: Literal["torchvision"] = "torchvision"
    backbone: str = Field("resnet18", description="a name that torchvision.models.list_models() prints")
    width: Width = Field(256, description="width of the backbone's output and of the head")


class CustomNetwork(Settings):
    """Your own torch.nn.Module: (x, z) → logits.

    It is built as Class(input_shape=…, classes=…, embedding_dim=…, **arguments).
    """

    kind: Literal["custom"] = "custom"
    path: str = Field(description="import path, package.module:Class")
    arguments: dict[str, Any] = Field(default_factory=dict, description="further keyword arguments")


NetworkSettings = Annotated[
    PaperNetwork | SmallConvNetwork | MlpNetwork | TorchvisionNetwork | CustomNetwork,
    Field(discriminator="kind"),
]
