"""`report`: writes the plots and the page of a run."""

from noprop_dist import api
from noprop_dist.cli.options import warn
from noprop_dist.cli.terminal import Terminal, working

console = Terminal()


def write_report(run_dir: str, data_root: str | None = None, trust_code: bool = False) -> None:
    """Write report.html and plots/*.png into the run directory, and say where."""
    with working("measuring every block"):
        written = api.report(run_dir, data_root, trust_code=trust_code)
    warn(written.notes)
    if written.left_out is not None:
        console.print(f"left out what needs the network and its data: {written.left_out}")
    console.print(written.place)
