"""Builds networks from settings, with weights that depend on (seed, block) alone."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from noprop_dist.config import schema
from noprop_dist.errors import UserError
from noprop_dist.models.classifier import LinearClassifier, RadialClassifier
from noprop_dist.models.custom import NetworkFactory, custom_network, given_network
from noprop_dist.models.mlp import MlpNetwork
from noprop_dist.models.paper import PaperNetwork
from noprop_dist.models.shapes import Shapes
from noprop_dist.models.small_conv import SmallConvNetwork
from noprop_dist.models.torchvision_backbone import TorchvisionNetwork
from noprop_dist.models.vit import VitNetwork
from noprop_dist.torch_random import seeded_aside

UNDRAWN = schema.PaperNetwork | schema.SmallConvNetwork | schema.MlpNetwork | schema.VitNetwork

SIZES = {"kind", "backbone", "channels", "patch", "width", "depth", "layers", "mlp_ratio"}
"""Settings that say how large a network is."""


def build_network(
    settings: schema.NetworkSettings, shapes: Shapes, initial_seed: int, given: NetworkFactory | None = None
) -> nn.Module:
    """A block's network on the CPU, its weights drawn from `initial_seed` alone.

    Args:
        settings: of the network.
        shapes: that it has to fit.
        initial_seed: of its weights.
        given: what builds it where it was handed over in Python.

    Raises:
        UserError: the network cannot take the data (size, channels), or a class of the user's own cannot be built or is
            not here.
    """
    with _told_of_memory(settings), seeded_aside(initial_seed):
        return _construct(settings, shapes, given)


def undrawn_network(settings: schema.NetworkSettings, shapes: Shapes) -> nn.Module:
    """A block's network on the CPU with any weights, for trained ones to be put in; only of the kinds `UNDRAWN`.

    Raises:
        UserError: as of `build_network`.
    """
    with _told_of_memory(settings), _Undrawn():
        return _construct(settings, shapes, None)


class _Undrawn(TorchFunctionMode):
    """Weights that layers draw at random are left as their memory is."""

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        draws = func in (init.uniform_, init.kaiming_uniform_, init.normal_)
        return given["tensor"] if draws else func(*args, **given)


@contextmanager
def _told_of_memory(settings: schema.NetworkSettings) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # what torch raises where memory is not enough
        raise UserError(f"blocks.network: {settings.kind} cannot be built in these sizes: {told(error)}") from error


def check_memory(settings: schema.NetworkSettings, shapes: Shapes, block: int) -> None:
    """Refuse a block, or a W_embed, that is larger than this machine's memory. Takes no memory itself.

    Of a network of the user's own, and of one that has to be built for it, nothing is said.

    Args:
        settings: of the block's network.
        shapes: that it has to fit.
        block: its number, for people.

    Raises:
        UserError: as described; names the setting that makes it so large.
    """
    memory, d = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), shapes.embedding_dim
    weights = [torch.empty(shapes.classes, d, device="meta"), *_weights_on_paper(settings, shapes)]
    size = sum(each.numel() * each.element_size() for each in weights)
    if size > memory:
        by_dim = d in max(weights, key=Tensor.numel).shape and not shapes.z_is_image
        sizes = settings.model_dump(mode="json", include=SIZES)
        named = ", ".join(f"{name}={value}" for name, value in sizes.items())
        raise UserError(
            f"{f'embedding.dim={d}' if by_dim else f'blocks.network with {named}'}: the weights of block {block} and "
            f"W_embed take {in_gib(size)}, and this machine has {in_gib(memory)} of memory"
        )


def _weights_on_paper(settings: schema.NetworkSettings, shapes: Shapes) -> list[Tensor]:
    """The weights of a network by shape alone; none where torch cannot tell without building it."""
    if isinstance(settings, schema.CustomNetwork | schema.GivenNetwork):
        return []
    try:
        with torch.device("meta"), seeded_aside(0):
            return list(_construct(settings, shapes, None).parameters())
    except RuntimeError:  # a backbone that computes while it is built, or sizes beyond all numbers
        return []


def told(error: BaseException) -> str:
    """One line of what a network raised; what torch's allocator says, in plain words."""
    text = " ".join(str(error).split())
    asked = re.search(r"tried to allocate (\d+) bytes", text)
    if asked is not None:
        return f"there is not enough memory for {in_gib(int(asked[1]))} at once"
    if isinstance(error, MemoryError) or re.search(r"overflow|can't allocate memory|out of memory", text):
        return "there is not enough memory"
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def in_gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:,.1f} GiB"


def _construct(settings: schema.NetworkSettings, shapes: Shapes, given: NetworkFactory | None) -> nn.Module:
    match settings:
        case schema.PaperNetwork():
            return PaperNetwork(shapes, settings.dropout, settings.dropout_unit == "channel")
        case schema.SmallConvNetwork():
            return SmallConvNetwork(shapes, settings.channels, settings.width)
        case schema.MlpNetwork():
            return MlpNetwork(shapes, settings.width, settings.depth)
        case schema.VitNetwork():
            sizes = settings.patch, settings.width, settings.layers, settings.heads, settings.mlp_ratio
            return VitNetwork(shapes, *sizes, z_enters=settings.z_enters, dropout=settings.dropout)
        case schema.TorchvisionNetwork():
            return TorchvisionNetwork(shapes, settings.backbone, settings.width)
        case schema.CustomNetwork() | schema.GivenNetwork():
            return _of_the_user(settings, shapes, given)


def _of_the_user(
    settings: schema.CustomNetwork | schema.GivenNetwork, shapes: Shapes, given: NetworkFactory | None
) -> nn.Module:
    if isinstance(settings, schema.CustomNetwork):
        return custom_network(settings.path, shapes, settings.arguments)
    if given is None:
        raise UserError(
            f"blocks.network.kind=given: the network {settings.name} was handed over in Python and lies in no "
            f"run directory; hand it over again (network=…)"
        )
    return given_network(given, settings.name, shapes)


def build_classifier(settings: schema.ClassifierSettings, shapes: Shapes, initial_seed: int) -> nn.Module:
    """The classifier (z_T, W_embed) → scores on the CPU, its weights drawn from `initial_seed` alone."""
    d, m = shapes.embedding_dim, shapes.classes
    with seeded_aside(initial_seed):
        return LinearClassifier(d, m) if settings.kind == "linear" else RadialClassifier(d, m, settings.sigma)
