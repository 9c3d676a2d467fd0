"""`reproduce`: the paper's table beside ours."""

from collections.abc import Sequence

from noprop_dist.bench.reproduction import COLUMNS, PASSES, reproduce, table_rows
from noprop_dist.cli.terminal import FittingTable, Terminal
from noprop_dist.cli.training import watched


def show_reproduction(data: str, seeds: int, epochs: int | None, out: str, settings: Sequence[str]) -> None:
    """Train and measure every run of the paper's table for one data set; print the table and where it lies."""
    progress = Terminal(stderr=True)
    cells = reproduce(data, seeds, epochs, out, settings, watched, progress.print)
    table = FittingTable(title=f"{data}: mean ± standard error over seeds and {PASSES} passes", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in table_rows(data, cells):
        table.add_row(*row)
    Terminal().print(table, f"{out}/table.md", sep="\n")
