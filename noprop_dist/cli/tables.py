"""Tables of figures on standard output, and pictures of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from noprop_dist.bench.harness import Cell, columns
from noprop_dist.cli.terminal import FittingTable, Terminal, shown
from noprop_dist.errors import UserError
from noprop_dist.files import local_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measured = TypeVar("Measured")


def show_rows(title: str, rows: Sequence[Any], as_json: bool, *lines: str, **further: Any) -> None:
    """Print a table and lines below it, or all of it as JSON.

    Args:
        title: of the table.
        rows: dataclasses of one class; see `bench.harness.columns`. Lists are shown in JSON only.
        as_json: print one JSON object with `rows` and what is in `further`.
        lines: below the table.
        further: values shown in JSON only.
    """
    cells = [columns(row) for row in rows]
    if as_json:
        print(json.dumps({"rows": cells, **further}))
        return
    table = FittingTable(title=title, title_justify="left")
    shown = [name for name, value in cells[0].items() if not isinstance(value, list | tuple)]
    for column in shown:
        is_text = isinstance(cells[0][column], str)
        justify: Literal["left", "right"] = "left" if is_text else "right"
        table.add_column(column.replace("_", " "), justify=justify, no_wrap=is_text)  # long headings may wrap
    for row in cells:
        table.add_row(*(_cell(row[column]) for column in shown))
    Terminal().print(table, *lines, sep="\n")


def check_plot(plot: Path | None) -> None:
    """Refuse a place for a picture before anything is measured.

    Raises:
        UserError: its folder is not there, or its name ends as that of no picture.
    """
    if plot is None:
        return
    from matplotlib.backend_bases import FigureCanvasBase

    if not local_path(plot).parent.is_dir():
        raise UserError(f"--plot {plot}: there is no folder {plot.parent}")
    if plot.suffix[1:].lower() not in ("", *FigureCanvasBase.filetypes):
        raise UserError(f"--plot {plot}: {plot.suffix} is no kind of picture; a name that ends in .png makes one")


def draw(plot: Path | None, figure_of: "Callable[[Measured], Figure]", measured: Measured) -> None:
    """Draw what was measured into a PNG file, if `plot` is given."""
    if plot is not None:
        place = local_path(plot) if plot.suffix else local_path(plot).with_suffix(".png")
        figure_of(measured).savefig(place, dpi=110)
        Terminal(stderr=True).print(f"plot: {shown(str(place))}")


def _cell(value: Cell) -> str:
    if value is None:
        return "never"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
