"""The image path of a block apart from the rest: what depends on x alone, so that several passes can share it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

PIECE = 50
"""Least samples in a piece of a batch whose image path is computed by itself: activations of as many MNIST images lie
in a core's cache."""
OURS = {"noprop_dist", "torch", "torchvision"}


class TwoPathNetwork(nn.Module):
    """A block's network whose paths of image and z meet in a head.

    A subclass has `image_path`, `label_path` and `head`, or other `image_features` and `logits`. Where it keeps this
    `forward`, image features are computed once for all z of one x. A network with `level_path` is told λ as well: its
    features join the others, as those of time do in NoProp-CT.
    """

    image_path: nn.Module
    label_path: nn.Module
    head: nn.Module
    level_path: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.level_path = None

    def image_features(self, x: Tensor) -> Tensor:
        """x (B, …) → what of the network depends on x alone, (B, …)."""
        features: Tensor = self.image_path(x)
        return features

    def logits(self, features: Tensor, z: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """(image features (B, …), z (B, d), λ (B,) if it takes it) → logits (B, m)."""
        paths = [features, self.label_path(z)]
        if self.level_path is not None and log_snr is not None:
            paths.append(self.level_path(log_snr))
        logits: Tensor = self.head(torch.cat(paths, dim=1))
        return logits

    def forward(self, x: Tensor, z: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """(x (B, …), z (B, d), λ (B,) if it takes it) → logits (B, m)."""
        return self.logits(self.image_features(x), z, log_snr)


def image_features(block: Any, x: Tensor) -> Tensor:
    """What of a block depends on x alone; x itself if the block does not tell its paths apart.

    Args:
        block: a function from (x, z) to logits, such as a network of any kind.
        x: normalised samples, (B, …).
    """
    return block.image_features(x) if _has_two_paths(block) else x


def logits(block: Any, features: Tensor, z: Tensor, log_snr: Tensor | None = None) -> Tensor:
    """What `block(x, z)` returns, bit for bit, from `image_features(block, x)` and z (B, d): logits (B, m).

    Args:
        block: a function from (x, z) to logits; one that takes a noise level, from (x, z, λ).
        features: of the samples, (B, …).
        z: (B, d).
        log_snr: λ of each z, (B,); None for a block that takes none.
    """
    level = () if log_snr is None else (log_snr,)
    result: Tensor = block.logits(features, z, *level) if _has_two_paths(block) else block(features, z, *level)
    return result


def sharing_features(blocks: Sequence[Any]) -> tuple[nn.Module, ...]:
    """The blocks of one network, whose image features are computed once for calls that follow each other.

    They remember the features of the last block and x. So chains share them that go side by side, all through block t
    before one goes on to block t + 1, and memory holds the features of one block.
    """
    last = _LastFeatures()
    return tuple(_Remembering(block, last) for block in blocks)


def keeps_nothing(network: nn.Module) -> bool:
    """Return True if calls of a network have no part in each other: in any number, at any time, in any thread.

    Networks of ours in evaluation mode are such. One of the user's own, or one with hooks, may keep something from call
    to call.
    """
    return all(
        type(module).__module__.partition(".")[0] in OURS
        and not (module.training or module._forward_hooks or module._forward_pre_hooks)
        for module in network.modules()
    )


def _has_two_paths(block: Any) -> bool:
    """Return True if features and logits make up its forward. A subclass with another forward may do anything."""
    return isinstance(block, TwoPathNetwork) and type(block).forward is TwoPathNetwork.forward


class _LastFeatures:
    def __init__(self) -> None:
        self._block: Any = None
        self._x = self._features = torch.empty(0)

    def of(self, block: Any, x: Tensor) -> Tensor:
        if self._block is not block or self._x is not x:
            self._block, self._x, self._features = block, x, _in_pieces(block, x)
        return self._features


def _in_pieces(block: Any, x: Tensor) -> Tensor:
    """`image_features`, of one piece of the batch after the other where that can be."""
    pieces = x.tensor_split(max(1, len(x) // PIECE))
    if len(pieces) == 1 or x.device.type != "cpu" or not (_has_two_paths(block) and keeps_nothing(block)):
        return image_features(block, x)
    return torch.cat([image_features(block, piece) for piece in pieces])


class _Remembering(nn.Module):
    def __init__(self, block: Any, last: _LastFeatures) -> None:
        super().__init__()
        self._block, self._last = block, last

    def forward(self, x: Tensor, z: Tensor, log_snr: Tensor | None = None) -> Tensor:
        return logits(self._block, self._last.of(self._block, x), z, log_snr)
