"""Any torchvision classification network as the image path of a block."""

import torch
from torch import Tensor, nn

from noprop_dist.config.refusals import close_to
from noprop_dist.errors import UserError
from noprop_dist.models.features import TwoPathNetwork
from noprop_dist.models.label_path import LabelPath, linear_norm_relu
from noprop_dist.models.noise_level import level_features, level_width
from noprop_dist.models.shapes import Shapes

SMALL_IMAGE_SIDE = 64


class TorchvisionNetwork(TwoPathNetwork):
    """A torchvision backbone for the image, the paper's path for z, one layer to join them.

    A z that is as large as the image has a backbone of its own.

    The backbone is built without pretrained weights. Its first convolution takes the data's channels; for images
    under 64 pixels a side it keeps their size (stride 1, at most 3×3) and a max-pool right after it is left out,
    as is usual for CIFAR.

    Args:
        shapes: images.
        backbone: a name that torchvision.models.list_models() prints, e.g. resnet18.
        width: of the backbone's output and of the head.

    Raises:
        UserError: torchvision has no classification network of that name.
    """

    def __init__(self, shapes: Shapes, backbone: str = "resnet18", width: int = 256) -> None:
        super().__init__()
        shapes.image(backbone, least_side=1)
        self.image_path = _image_path(shapes, backbone, width)
        if shapes.z_is_image:
            path = _image_path(shapes, backbone, width)
            self.label_path: nn.Module = nn.Sequential(nn.Unflatten(1, shapes.input_shape), path)
        else:
            self.label_path = LabelPath(shapes.embedding_dim, width)
        joined = 2 * width + level_width(shapes)
        self.head = nn.Sequential(linear_norm_relu(joined, width), nn.Linear(width, shapes.classes))
        self.level_path = level_features(shapes)

    def image_features(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) → (B, width)."""
        return torch.relu(self.image_path(x))


def _image_path(shapes: Shapes, backbone: str, width: int) -> nn.Module:
    """(B, C, H, W) → (B, width)."""
    channels, height, image_width = shapes.input_shape
    network = _classification_network(backbone, width)
    _adapt_stem(network, channels, small=min(height, image_width) < SMALL_IMAGE_SIDE)
    return network


def _classification_network(backbone: str, outputs: int) -> nn.Module:
    import torchvision.models

    known = torchvision.models.list_models(module=torchvision.models)
    if backbone not in known:
        raise UserError(
            f"blocks.network.backbone: torchvision has no classification network {backbone!r}"
            f"{close_to(backbone, known) or '; torchvision.models.list_models() has their names, such as resnet18'}"
        )
    network: nn.Module = torchvision.models.get_model(backbone, weights=None, num_classes=outputs)
    return network


def _adapt_stem(network: nn.Module, channels: int, small: bool) -> None:
    """Replace the first convolution by one that fits the data's channels and, for small images, their size."""
    name, stem = next((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    overlapping = stem.kernel_size > stem.stride  # a patchifying stem (stride = kernel) is left as it is
    shrink = small and stem.stride[0] > 1 and overlapping
    kernel = min(stem.kernel_size[0], 3) if shrink else stem.kernel_size[0]
    parent, _, attribute = name.rpartition(".")
    replacement = nn.Conv2d(
        channels,
        stem.out_channels,
        kernel,
        stride=1 if shrink else stem.stride[0],
        padding=kernel // 2 if shrink else (stem.padding if isinstance(stem.padding, str) else stem.padding[0]),
        bias=stem.bias is not None,
    )
    setattr(network.get_submodule(parent), attribute, replacement)
    if small and isinstance(getattr(network, "maxpool", None), nn.MaxPool2d):
        network.maxpool = nn.Identity()
