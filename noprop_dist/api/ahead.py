"""What a run starts before its configuration is checked. Imports no torch."""

from contextlib import AbstractContextManager, nullcontext

from noprop_dist.config.schema import RunConfig
from noprop_dist.files import have_a_home


def ray_ahead(config: RunConfig) -> AbstractContextManager[None]:
    """Start Ray beside what is done within the `with`, if a run of this configuration needs one of its own."""
    if config.engine.kind == "sequential":
        return nullcontext()
    have_a_home()
    from noprop_dist.engines.ray import ahead

    return ahead.ray_ahead(config.engine.address)
