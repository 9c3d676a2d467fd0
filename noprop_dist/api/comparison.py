"""Compare runs."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from noprop_dist.api.result import NamedRun, run_directory
from noprop_dist.config.arguments import checked
from noprop_dist.reporting.comparison import Comparison, comparison_of
from noprop_dist.reporting.run_figures import read_figures


@checked
def compare(
    runs: Annotated[Sequence[NamedRun], Field(min_length=1)], *, group: bool = False, sort: str | None = None
) -> Comparison:
    """Put runs side by side: what differs between them, how good each is, and what it took.

    Nothing is measured and no network is built: all of it stands in the run directories. Runs may be of any methods,
    data and sizes, finished or not; what one does not have is None.

    Args:
        runs: run directories (paths or URIs), or `Result`s. One that is named twice is there once.
        group: whether runs with the same settings but for their seeds stand in one row, with mean and standard error.
        sort: a figure (`test_accuracy`, `training_seconds`, …: see `RunFigures`), by which the best comes first; or
            name, method, seed, steps, epochs, or the key of a setting that differs, by which the lowest does. None
            leaves the order.

    Raises:
        UserError: one of them is no run, or what describes it is damaged; or there is nothing of that name to sort by.
    """
    directories = {str(each.local_root or each.root): each for each in map(run_directory, runs)}
    figures, warnings = [], list[str]()
    names = short_names([str(each) for each in directories.values()])
    for directory, name in zip(directories.values(), names, strict=True):
        read, told = read_figures(directory, name)
        figures.append(read)
        warnings += told
    return comparison_of(figures, warnings, group=group, sort=sort)


def short_names(paths: Sequence[str]) -> list[str]:
    """The last folder of each path, and as many above it as tell it from the others."""
    folders = [path.rstrip("/").split("/") for path in paths]

    def name(own: list[str]) -> str:
        for length in range(1, len(own)):
            if sum(other[-length:] == own[-length:] for other in folders) == 1:
                return "/".join(own[-length:])
        return "/".join(own)

    return [name(own) for own in folders]
