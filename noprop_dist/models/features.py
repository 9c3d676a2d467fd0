"""The part of a block's network that sees the image alone.

A network may have `image_features(x) -> Tensor` and `logits(features, z) -> (B, m)`, with
`forward(x, z) == logits(image_features(x), z)` bit for bit. Then several z need the features of an image only once.
"""

from torch import Tensor, nn


def image_features(block: nn.Module, x: Tensor) -> Tensor:
    """What a block's `logits` takes in place of x: the network's own image features, else x itself."""
    return block.image_features(x) if _is_split(block) else x  # type: ignore[operator]


def logits(block: nn.Module, features: Tensor, z: Tensor) -> Tensor:
    """(features of B samples, z (B, d)) → logits (B, m)."""
    return block.logits(features, z) if _is_split(block) else block(features, z)  # type: ignore[operator,no-any-return]


def _is_split(block: nn.Module) -> bool:
    return hasattr(block, "image_features") and hasattr(block, "logits")
