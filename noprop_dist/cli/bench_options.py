"""What the benchmark commands have in common: options, progress, and how rows are shown."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from noprop_dist.cli.figures import print_figures
from noprop_dist.errors import UserError

Preset = Annotated[str, typer.Option(help="Data and network of the block-steps.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="As for train.", metavar="KEY.PATH=VALUE")]
Steps = Annotated[int, typer.Option(help="Steps of every block in one turn.", min=16)]
Repeats = Annotated[int, typer.Option(help="Turns of each side.", min=1)]
Workers = Annotated[int, typer.Option(help="Worker processes on each side, one thread each.", min=1)]
Plot = Annotated[Path | None, typer.Option(help="Also draw it into this PNG file.", metavar="FILE")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object with `rows`.")]

progress = Console(stderr=True, highlight=False)


def check_choice(option: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse what an option does not know.

    Raises:
        UserError: names what is allowed.
    """
    if value not in allowed:
        raise UserError(f"{option} {value}: allowed are {', '.join(allowed[:-1])} and {allowed[-1]}")


def check_plot(plot: Path | None) -> None:
    """Refuse a place for a picture before anything is measured.

    Raises:
        UserError: its folder is not there.
    """
    if plot is not None and not plot.parent.is_dir():
        raise UserError(f"--plot {plot}: there is no folder {plot.parent}")


def draw(plot: Path | None, figure_of: Callable[[Any], Any], measured: Any) -> None:
    """Draw what was measured, if that is asked for, by a function that makes a matplotlib figure of it."""
    if plot is not None:
        figure_of(measured).savefig(plot, dpi=110)


def show_rows(title: str, result: Mapping[str, Any], as_json: bool, *lines: str) -> None:
    """A table of the result's rows, or all of it as JSON."""
    if as_json:
        print(json.dumps(result))
        return
    rows: Sequence[Mapping[str, Any]] = result["rows"]
    columns = [column for column in rows[0] if not isinstance(rows[0][column], list)]
    table = Table(title=title, title_justify="left")
    for column in columns:
        is_text = isinstance(rows[0][column], str)
        justify: Literal["left", "right"] = "left" if is_text else "right"
        table.add_column(column.replace("_", " "), justify=justify, no_wrap=is_text)  # long headings may wrap
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    print_figures(table, *lines)


def _cell(value: Any) -> str:
    if value is None:
        return "never"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
