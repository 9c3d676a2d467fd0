"""Builds networks from settings, with weights that depend on (seed, block) alone."""

import torch
from torch import nn

from noprop_dist.config import schema
from noprop_dist.errors import UserError
from noprop_dist.models.classifier import LinearClassifier, RadialClassifier
from noprop_dist.models.custom import NetworkFactory, custom_network, given_network
from noprop_dist.models.mlp import MlpNetwork
from noprop_dist.models.paper import PaperNetwork
from noprop_dist.models.shapes import Shapes
from noprop_dist.models.small_conv import SmallConvNetwork
from noprop_dist.models.torchvision_backbone import TorchvisionNetwork
from noprop_dist.torch_random import seeded_aside


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
    try:
        with seeded_aside(initial_seed):
            return _construct(settings, shapes, given)
    except (RuntimeError, MemoryError) as error:  # what torch raises where memory is not enough
        reason = str(error).splitlines()[0] if str(error) else "there is not enough memory"
        raise UserError(f"blocks.network: {settings.kind} cannot be built in these sizes: {reason}") from error


def _construct(settings: schema.NetworkSettings, shapes: Shapes, given: NetworkFactory | None) -> nn.Module:
    match settings:
        case schema.PaperNetwork():
            return PaperNetwork(shapes, settings.dropout, settings.dropout_unit == "channel")
        case schema.SmallConvNetwork():
            return SmallConvNetwork(shapes, settings.channels, settings.width)
        case schema.MlpNetwork():
            return MlpNetwork(shapes, settings.width, settings.depth)
        case schema.TorchvisionNetwork():
            return TorchvisionNetwork(shapes, settings.backbone, settings.width)
        case schema.CustomNetwork():
            return custom_network(settings.path, shapes, settings.arguments)
        case schema.GivenNetwork():
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


def check_network(network: nn.Module, shapes: Shapes, name: str) -> None:
    """Run two samples of zeros through a network and check what comes out; its state is left as it was.

    Raises:
        UserError: it fails on the data's shape or returns anything but logits (2, m); the message begins with `name`.
    """
    training = network.training
    network.eval()
    x, z = torch.zeros(2, *shapes.input_shape), torch.zeros(2, shapes.embedding_dim)
    try:
        with torch.no_grad(), seeded_aside(0):
            logits = network(x, z)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{name}: the network cannot take samples of shape {shapes.input_shape} with z of size "
            f"{shapes.embedding_dim}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    finally:
        network.train(training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, shapes.classes):
        returned = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(
            f"{name}: the network returned {returned} for a batch of 2, "
            f"logits of shape {(2, shapes.classes)} are needed"
        )
