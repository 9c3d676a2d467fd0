"""Packages that a configuration needs and a plain installation lacks."""

from importlib.util import find_spec

from noprop_dist.config.schema import RunConfig
from noprop_dist.errors import UserError


def check_extras(config: RunConfig) -> None:
    """Check that the packages of the trackers are installed.

    Raises:
        UserError: one is not; names the extra.
    """
    for name in config.tracking:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name (W&B makes some) is no package
            raise UserError(f"tracking={name}: {name} is not installed; `pip install 'noprop-dist[{name}]'` adds it")
