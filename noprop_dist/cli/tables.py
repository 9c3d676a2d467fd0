"""Tables of figures on standard output, and pictures of them."""

import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from noprop_dist.bench.harness import Cell, columns
from noprop_dist.cli.terminal import FittingTable, Terminal, shown
from noprop_dist.errors import UserError
from noprop_dist.files import local_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = ".png", ".pdf", ".svg"
"""What the name of a picture may end in; none is .png."""
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
        UserError: it is no name of a file, its folder is not there or cannot be written to, something is there
            already, or its name ends as that of no picture.
    """
    if plot is None:
        return
    place = local_path(plot)
    if not place.name:
        raise UserError(f"--plot {plot}: is no name of a file; a name that ends in .png makes a picture")
    if not place.parent.is_dir():
        raise UserError(f"--plot {plot}: there is no folder {plot.parent}")
    if place.suffix.lower() not in ("", *PICTURES):
        raise UserError(
            f"--plot {plot}: {plot.suffix} is no kind of picture; a name that ends in {', '.join(PICTURES)} makes one"
        )
    try:
        is_there = any(map(_is_there, (place, _picture_file(place))))
    except OSError as error:
        raise UserError(f"--plot {plot}: {error.strerror}") from error
    if is_there:
        raise UserError(f"--plot {plot}: is there already, and nothing is overwritten; name another file")
    if not os.access(place.parent, os.W_OK):
        raise UserError(f"--plot {plot}: the folder {plot.parent} cannot be written to")


def draw(plot: Path | None, figure_of: "Callable[[Measured], Figure]", measured: Measured) -> None:
    """Draw what was measured into a file, if `plot` is given."""
    if plot is not None:
        place = _picture_file(local_path(plot))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of signs in names of runs that no font has
            figure_of(measured).savefig(place, dpi=110)
        Terminal(stderr=True).print(f"plot: {shown(str(place))}")


def _is_there(place: Path) -> bool:
    try:
        place.lstat()
    except FileNotFoundError:
        return False
    return True


def _picture_file(plot: Path) -> Path:
    return plot if plot.suffix else plot.with_suffix(".png")


def _cell(value: Cell) -> str:
    if value is None:
        return "never"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
