"""`report`: writes the plots and the page of a run."""

from rich.console import Console

from noprop_dist import api
from noprop_dist.cli.options import working

console = Console(highlight=False, soft_wrap=True, markup=False)


def write_report(run_dir: str, data_root: str | None = None) -> None:
    """Write report.html and plots/*.png into the run directory, and say where."""
    with working("measuring every block"):
        written = api.report(run_dir, data_root)
    if written.left_out is not None:
        console.print(f"left out what needs the data set: {written.left_out}")
    console.print(written.place)
