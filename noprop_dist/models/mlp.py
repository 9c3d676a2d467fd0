"""A multi-layer perceptron over the flattened input and z."""

from math import prod

from torch import Tensor, nn

from noprop_dist.models.features import TwoPathNetwork
from noprop_dist.models.label_path import linear_norm_relu
from noprop_dist.models.noise_level import level_features, level_width
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
        joined = 2 * width + level_width(shapes)
        hidden = [linear_norm_relu(width if layer else joined, width) for layer in range(depth)]
        self.head = nn.Sequential(*hidden, nn.Linear(width, shapes.classes))
        self.level_path = level_features(shapes)

    def image_features(self, x: Tensor) -> Tensor:
        """x (B, …) → (B, width)."""
        features: Tensor = self.input_path(x)
        return features
