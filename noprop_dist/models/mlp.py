"""A multi-layer perceptron over the flattened input and z."""

from math import prod

from torch import Tensor, nn

from noprop_dist.models.features import TwoPathNetwork
from noprop_dist.models.label_path import linear_norm_relu
from noprop_dist.models.noise_level import level_modulation
from noprop_dist.models.shapes import Shapes


class MlpNetwork(TwoPathNetwork):
    """One layer each for input and z, then `depth` layers of `width` and the logits.

    Args:
        shapes: any input shape; it is flattened.
        width: of the hidden layers.
        depth: hidden layers after input and z are joined.
    """

    def __init__(self, shapes: Shapes, width: int = 256, depth: int = 2) -> None:
        super().__init__()
        self.input_path = nn.Sequential(nn.Flatten(), linear_norm_relu(prod(shapes.input_shape), width))
        self.label_path = linear_norm_relu(shapes.embedding_dim, width)
        hidden = [linear_norm_relu(width if layer else 2 * width, width) for layer in range(depth)]
        self.head = nn.Sequential(*hidden, nn.Linear(width, shapes.classes))
        self.noise_level = level_modulation(shapes, 2 * width)

    def image_features(self, x: Tensor) -> Tensor:
        """x (B, …) → (B, width)."""
        features: Tensor = self.input_path(x)
        return features
