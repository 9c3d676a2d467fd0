"""The sizes that a block's network has to fit."""

from dataclasses import dataclass
from math import prod

from noprop_dist.errors import UserError


@dataclass(frozen=True)
class Shapes:
    """What goes into a block and what comes out.

    Attributes:
        input_shape: of one sample without the batch: (C, H, W) for images, (F,) for vectors.
        classes: m, the number of logits.
        embedding_dim: d, the size of z.
        takes_level: whether a network is told λ = ln SNR of its z, because its block owns a range of noise levels.
    """

    input_shape: tuple[int, ...]
    classes: int
    embedding_dim: int
    takes_level: bool = False

    @property
    def z_is_image(self) -> bool:
        """Return True if z has the size of the image, and so is treated as one (prototype embeddings)."""
        return len(self.input_shape) == 3 and self.embedding_dim == prod(self.input_shape)

    def image(self, network: str, least_side: int) -> tuple[int, int, int]:
        """The input shape as (C, H, W).

        Raises:
            UserError: the input is no image or a side is shorter than `least_side` pixels.
        """
        if len(self.input_shape) != 3:
            raise UserError(
                f"the {network} network takes images (C, H, W), the data has samples of shape {self.input_shape}; "
                "blocks.network.kind=mlp takes any shape"
            )
        channels, height, width = self.input_shape
        if min(height, width) < least_side:
            raise UserError(
                f"the {network} network needs images of at least {least_side}×{least_side} pixels, "
                f"the data has {height}×{width}"
            )
        return channels, height, width
