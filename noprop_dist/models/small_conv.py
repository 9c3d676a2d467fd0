"""A small convolutional network for images of about 8×8 pixels: a block-step of 128 takes about 7 ms on a core."""

from torch import nn

from noprop_dist.models.features import TwoPathNetwork
from noprop_dist.models.label_path import linear_norm_relu
from noprop_dist.models.noise_level import level_features, level_width
from noprop_dist.models.shapes import Shapes


class SmallConvNetwork(TwoPathNetwork):
    """Two 3×3 convolutions and a pooling for the image, one layer for z, two for the head.

    A z that is as large as the image has a path like the image's.

    Args:
        shapes: images of at least 2×2 pixels.
        channels: of the two convolutions.
        width: of the linear layers.

    Raises:
        UserError: the input is not such an image.
    """

    def __init__(self, shapes: Shapes, channels: tuple[int, int] = (16, 32), width: int = 128) -> None:
        super().__init__()
        shapes.image("small-conv", least_side=2)
        self.image_path = _image_path(shapes.input_shape, channels, width)
        if shapes.z_is_image:
            path = _image_path(shapes.input_shape, channels, width)
            self.label_path: nn.Module = nn.Sequential(nn.Unflatten(1, shapes.input_shape), path)
        else:
            self.label_path = linear_norm_relu(shapes.embedding_dim, width)
        joined = 2 * width + level_width(shapes)
        self.head = nn.Sequential(linear_norm_relu(joined, width), nn.Linear(width, shapes.classes))
        self.level_path = level_features(shapes)


def _image_path(shape: tuple[int, ...], channels: tuple[int, int], width: int) -> nn.Sequential:
    """(B, C, H, W) → (B, width)."""
    image_channels, height, image_width = shape
    first, second = channels
    return nn.Sequential(
        *(nn.Conv2d(image_channels, first, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(first, second, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.Flatten()),
        linear_norm_relu(second * (height // 2) * (image_width // 2), width),
    )
