"""What describes a run completely: typed settings, and the layers they are read from."""

from noprop_dist.config.schema import RunConfig

__all__ = ["RunConfig"]
