"""`merge`: one network from blocks that were trained in different runs."""

from collections.abc import Sequence

from rich.console import Console

from noprop_dist.storage.merge import merge_runs
from noprop_dist.storage.run_directory import RunDirectory


def merge_into(out: str, runs: Sequence[str]) -> None:
    """Merge runs, and print where the network lies."""
    directory = RunDirectory(out)
    for warning in merge_runs(directory, [RunDirectory(run) for run in runs]):
        Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(warning, style="yellow")
    print(directory)
