"""Runs as jobs of a Ray cluster."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noprop_dist.engines.ray.jobs import Jobs


def jobs_at(address: str) -> "Jobs":
    """The jobs of the cluster whose jobs server is at an address, http://HOST:8265.

    Raises:
        UserError: nobody answers there, or the token is missing or wrong.
    """
    from noprop_dist.engines.ray.token import use_token_if_there_is_one

    use_token_if_there_is_one()  # before Ray is imported
    from noprop_dist.engines.ray.jobs import Jobs

    return Jobs(address)
