"""A user's own network, named by its import path."""

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from noprop_dist.errors import UserError
from noprop_dist.models.shapes import Shapes


def custom_network(path: str, shapes: Shapes, arguments: Mapping[str, Any]) -> nn.Module:
    """Build the class at `path` as Class(input_shape=…, classes=…, embedding_dim=…, **arguments).

    Args:
        path: "package.module:Class".
        shapes: handed to the class as keyword arguments.
        arguments: further keyword arguments.

    Raises:
        UserError: the path does not import, is no torch.nn.Module, or its constructor fails.
    """
    field = "blocks.network.path"
    module_name, colon, class_name = path.partition(":")
    if not colon or not class_name:
        raise UserError(f"{field}: {path!r} is no import path; write package.module:Class")
    try:
        network_class = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        raise UserError(f"{field}: {path!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(network_class, type) and issubclass(network_class, nn.Module)):
        raise UserError(f"{field}: {path!r} is no torch.nn.Module class")
    try:
        return network_class(
            input_shape=shapes.input_shape,
            classes=shapes.classes,
            embedding_dim=shapes.embedding_dim,
            **arguments,
        )
    except Exception as error:
        raise UserError(f"{field}: {path!r} could not be built: {type(error).__name__}: {error}") from error
