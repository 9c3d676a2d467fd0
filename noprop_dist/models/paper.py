"""The network of the paper's experiments (Figure 6, left): about 2.0 M parameters a block on MNIST."""

from collections.abc import Callable

from torch import nn

from noprop_dist.models.features import TwoPathNetwork
from noprop_dist.models.label_path import LabelPath, linear_norm_relu
from noprop_dist.models.noise_level import level_features, level_width
from noprop_dist.models.shapes import Shapes


class PaperNetwork(TwoPathNetwork):
    """A convolutional path for the image and a linear one for z, joined by a small head.

    A z that is as large as the image has a path like the image's (prototype embeddings).

    Args:
        shapes: images of at least 4×4 pixels.
        dropout: rate in the image path.
        drop_channels: drop whole channels in place of single elements.

    Raises:
        UserError: the input is not such an image.
    """

    def __init__(self, shapes: Shapes, dropout: float = 0.2, drop_channels: bool = False) -> None:
        super().__init__()
        shapes.image("paper", least_side=4)
        drop = nn.Dropout2d if drop_channels else nn.Dropout
        self.image_path = _image_path(shapes.input_shape, drop, dropout)
        if shapes.z_is_image:
            path = _image_path(shapes.input_shape, drop, dropout)
            self.label_path: nn.Module = nn.Sequential(nn.Unflatten(1, shapes.input_shape), path)
        else:
            self.label_path = LabelPath(shapes.embedding_dim, 256)
        self.head = nn.Sequential(
            linear_norm_relu(512 + level_width(shapes), 256), linear_norm_relu(256, 128), nn.Linear(128, shapes.classes)
        )
        self.level_path = level_features(shapes)


def _image_path(shape: tuple[int, ...], drop: Callable[[float], nn.Module], dropout: float) -> nn.Sequential:
    """(B, C, H, W) → (B, 256)."""
    # ReLU after max-pool gives the bits of the paper's order, forward and backward, from a quarter of the values.
    channels, height, width = shape
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True), drop(dropout)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(inplace=True), drop(dropout)),
        *(nn.Conv2d(64, 128, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True), drop(dropout)),
        *(nn.Flatten(), nn.Linear(128 * (height // 4) * (width // 4), 256), nn.BatchNorm1d(256)),
    )
