"""What describes a run: typed settings, the layers they are read from, and which of them change bits."""

from noprop_dist.config.schema import RunConfig

__all__ = ["RunConfig"]
