"""Data and networks that a caller hands over in Python: what the configuration says of them, and what travels."""

from pathlib import Path
from typing import Any

from noprop_dist.config.effect import DOWNLOADED
from noprop_dist.config.refusals import close_to
from noprop_dist.config.schema import CustomNetwork, DataSettings, GivenNetwork, RunConfig
from noprop_dist.data.given import given_data
from noprop_dist.data.packed import is_packed
from noprop_dist.errors import UserError
from noprop_dist.files import local_path
from noprop_dist.models.custom import NetworkFactory, import_path, is_at
from noprop_dist.storage.trust import own_networks
from noprop_dist.training.setup import Given

NAMED = ("digits", *DOWNLOADED)
"""Data sets of which the name is enough."""


def handed_over(config: RunConfig, data: Any, network: NetworkFactory | None) -> tuple[RunConfig, Given]:
    """The configuration of a run on what is handed over, and what has to travel with it.

    Args:
        config: as it was given.
        data: see `train`; None for what the configuration names.
        network: a class or function; None for what the configuration names.

    Raises:
        UserError: it is neither data nor a network.
    """
    given = Given()
    if isinstance(data, str | Path):
        config = _with_data(config, _named(data, config.data))
    elif data is not None:
        settings = config.data.model_copy(update={"name": "given", "root": None})
        config, given = _with_data(config, settings), Given(given_data(data, settings.columns))
    if network is None:
        return config, given
    path = import_path(network)
    chosen = CustomNetwork(path=path) if path else GivenNetwork(name=_name(network))
    config = config.model_copy(update={"blocks": config.blocks.model_copy(update={"network": chosen})})
    return config, Given(given.data, None if path else network)


def handed_over_again(config: RunConfig, data: Any, network: NetworkFactory | None) -> Given:
    """What a run needs again that was handed over when it began.

    Raises:
        UserError: the run has names for it, or lacks what was handed over.
    """
    if data is not None and config.data.name != "given":
        raise UserError(
            f"data: this run reads data.name={config.data.name}; data.root says where it lies now, and "
            "load(run).predict(images) takes other images"
        )
    if isinstance(data, str | Path):
        raise UserError(f"data: {str(data)!r} is a name; the data of this run was handed over, hand it over again")
    if network is not None and not (names_given_network(config) or is_own_class(config, network)):
        every = map(config.blocks.network_of, range(1, config.blocks.count + 1))
        names = sorted({each.path if isinstance(each, CustomNetwork) else each.kind for each in every})
        raise UserError(f"network: is {_name(network)}, this run's networks are {', '.join(names)}; leave it out")
    return Given(None if data is None else given_data(data, config.data.columns), network)


def is_own_class(config: RunConfig, network: NetworkFactory | None) -> bool:
    """Return True if what is handed over is the class that the configuration names for all networks of a user's own."""
    own = own_networks(config)
    return network is not None and bool(own) and all(is_at(network, each.path) for each in own)


def names_given_network(config: RunConfig) -> bool:
    """Return True if a block has a network that was handed over in Python."""
    every = map(config.blocks.network_of, range(1, config.blocks.count + 1))
    return any(isinstance(network, GivenNetwork) for network in every)


def _name(network: NetworkFactory) -> str:
    return getattr(network, "__qualname__", type(network).__name__)


def _with_data(config: RunConfig, settings: DataSettings) -> RunConfig:
    return config.model_copy(update={"data": settings})


def _named(data: str | Path, settings: DataSettings) -> DataSettings:
    """The settings of the data set of this name (a `Path` is none), or of the file or folder at this path.

    Raises:
        UserError: there is neither.
    """
    place = local_path(data or ".")
    if data == "" or not (data in NAMED or place.exists()):
        if str(data) in NAMED:
            raise UserError(
                f"data: there is no file or folder {data}; a Path means one of these, and text, data={str(data)!r}, "
                "the data set of that name"
            )
        meant = close_to(str(data), NAMED) or f"; named ones are {', '.join(NAMED)}"
        raise UserError(f"data: there is no file or folder {str(data)!r}, and no data set of that name{meant}")
    kind = "npz" if place.suffix.lower() == ".npz" else "packed" if is_packed(place) else "image-folder"
    if data not in NAMED and kind != "npz" and place.is_file():
        raise UserError(f"data: {data} is a file; allowed are .npz files, image folders and packed folders")
    names = {"name": data} if data in NAMED else {"name": kind, "root": str(data)}
    return RunConfig(data={**settings.model_dump(exclude_unset=True, exclude={"name", "root"}), **names}).data
