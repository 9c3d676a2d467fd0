"""`compare`: runs side by side."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.cells import cell_len

from noprop_dist import api
from noprop_dist.api.types import TextTable
from noprop_dist.cli.options import warn
from noprop_dist.cli.tables import check_plot, draw
from noprop_dist.cli.terminal import FittingTable, Terminal, shown, working
from noprop_dist.errors import UserError
from noprop_dist.printable import without_secrets

WIDEST = 24
"""A cell of more characters may be broken into lines."""


def show_comparison(
    runs: Sequence[str], sort: str | None, plot: Path | None, *, group: bool, markdown: bool, as_json: bool
) -> None:
    """Print the figures of runs, and draw their accuracies."""
    if markdown and as_json:
        raise UserError("--markdown and --json: only one of them can be printed")
    check_plot(plot)
    with working("reading the runs"):
        compared = api.compare(runs, group=group, sort=sort)
    warn(compared.warnings)
    if as_json:
        print(without_secrets(json.dumps(compared.to_json())))
    elif markdown:
        print(shown(compared.markdown()), end="")
    else:
        console = Terminal()
        tables = list(map(_for_terminal, compared.tables(joined=True)))
        if not tables[0].fits(console):
            tables = list(map(_for_terminal, compared.tables(joined=False)))
        console.print(*tables, sep="\n")
    draw(plot, api.Comparison.figure, compared)


def _for_terminal(table: TextTable) -> FittingTable:
    """Columns are as wide as their cells, and headings are broken into lines: so more columns fit."""
    close: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "show_edge": False}
    fitting = FittingTable(title=table.title or None, title_justify="left", **close)
    for heading, cells in zip(table.headings, zip(*table.rows, strict=True), strict=True):
        is_number = all(re.match(r"-?\d|nan|$", cell) for cell in cells)
        justify: Literal["left", "right"] = "right" if is_number else "left"
        longest_word = max(map(cell_len, heading.split()))
        width = max(longest_word, min(WIDEST, max(map(cell_len, map(shown, cells)))))
        fitting.add_column(heading, justify=justify, min_width=width, max_width=width, overflow="fold")
    for row in table.rows:
        fitting.add_row(*row)
    return fitting
