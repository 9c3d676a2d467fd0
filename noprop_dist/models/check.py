"""Checks the networks of blocks before anything is trained with them, or once they are put together."""

import inspect
from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from noprop_dist.errors import UserError
from noprop_dist.models.build import told
from noprop_dist.models.features import image_features, logits
from noprop_dist.models.shapes import Shapes
from noprop_dist.torch_random import seeded_aside


def check_network(network: nn.Module, shapes: Shapes, name: str) -> None:
    """Check a network's weights, and what two samples of zeros make of it; its state is left as it was.

    Raises:
        UserError: it has no weights that can be trained and kept, it takes no noise level where it is told one, it
            fails on the data's shape, it writes into what it is given, or it returns anything but float32 logits
            (2, m); the message begins with `name`.
    """
    try:
        fault = _fault_of_weights(network) or _fault_of_level(network, shapes) or _fault_of_forward(network, shapes)
    except (Exception, SystemExit) as error:
        fault = (
            f"the network cannot take samples of shape {shapes.input_shape} with z of size {shapes.embedding_dim}: "
            f"{type(error).__name__}: {told(error)}"
        )
        raise UserError(f"{name}: {fault}") from error
    if fault is not None:
        raise UserError(f"{name}: {fault}")


def _fault_of_weights(network: nn.Module) -> str | None:
    for key, weight in chain(network.named_parameters(), network.named_buffers()):
        if is_lazy(weight):
            return (
                f"{key} has no size before the first batch, as the weights of all lazy modules; "
                "give sizes, as nn.Linear(in_features, out_features) does"
            )
    if not any(each.requires_grad for each in network.parameters()):
        return "the network has no parameters that can be trained"
    for key, weight in network.state_dict().items():
        try:
            weight.cpu().numpy()
        except (AttributeError, TypeError, RuntimeError):
            kind = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
            return f"{key} of type {kind} cannot be kept in a snapshot; keep weights in torch.float32"
    return None


def _fault_of_level(network: nn.Module, shapes: Shapes) -> str | None:
    if not shapes.takes_level:
        return None
    try:
        inspect.signature(network.forward).bind("x", "z", "log_snr")
    except TypeError:
        return (
            "the network takes no noise level, and its block owns a range of them (blocks.noise.kind=range); "
            "write forward(x, z, log_snr) with log_snr (B,), or choose blocks.noise.kind=point"
        )
    return None


def _fault_of_forward(network: nn.Module, shapes: Shapes) -> str | None:
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), seeded_aside(0):
            written, returned = _forward(network, shapes)
    finally:
        network.train(training)
    if written is not None:
        return (
            f"the network writes into {written} in place, and others read {written} after it; "
            f"write {written} = {written}.clamp(0), say, and not {written}.clamp_(0), and no inplace=True"
        )
    if not isinstance(returned, Tensor) or returned.shape != (2, shapes.classes):
        what = tuple(returned.shape) if isinstance(returned, Tensor) else type(returned).__name__
        return f"the network returned {what} for a batch of 2, logits of shape {(2, shapes.classes)} are needed"
    if returned.dtype != torch.float32:
        return f"the network returned {returned.dtype}, torch.float32 is needed; return logits.float(), say"
    return None


def _forward(network: nn.Module, shapes: Shapes) -> tuple[str | None, object]:
    """The name of an input that a network writes into, if it does, and what it returns for two samples."""
    x, z = torch.zeros(2, *shapes.input_shape), torch.zeros(2, shapes.embedding_dim)
    features = image_features(network, x)
    features = x if features is x else features.clone()
    level = torch.zeros(2) if shapes.takes_level else None
    returned: object = logits(network, features, z, level)
    shared = {"x": x, "z": z, "features": features}  # by blocks, passes and figures; new tensors count writes from 0
    return next((name for name, each in shared.items() if each._version > 0), None), returned


def check_apart(networks: Iterable[tuple[str, nn.Module]]) -> None:
    """Check that no two networks have a weight in common: each block is trained by itself, in a process of its own.

    Args:
        networks: and what they are called.

    Raises:
        UserError: two of them do.
    """
    owners: dict[object, tuple[int, str]] = {}
    for number, (name, network) in enumerate(networks):
        for key, own in _own(network):
            owner, first = owners.setdefault(own, (number, name))
            if owner != number:
                raise UserError(
                    f"blocks.network: {first} and {name} share {key}; every block needs modules and weights of its "
                    "own, so make them anew each time that a network is built (clone() of a tensor is a new one)"
                )


def _own(network: nn.Module) -> Iterator[tuple[str, object]]:
    """What a network cannot share: where its weights lie, and modules that do not always compute alike."""
    for key, weight in chain(network.named_parameters(), network.named_buffers()):
        if not is_lazy(weight) and weight.numel() and weight.device.type != "meta":
            yield key, (weight.device, weight.data_ptr())
    for key, module in network.named_modules():
        if isinstance(module, _DropoutNd):  # an evaluation of one would switch it off in the others
            yield key, id(module)
