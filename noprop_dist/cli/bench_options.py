"""What the benchmark commands have in common: options, progress, and how rows are shown."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from noprop_dist.cli.figures import print_figures

Preset = Annotated[str, typer.Option(help="Data and network of the block-steps.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="As for train.", metavar="KEY.PATH=VALUE")]
Steps = Annotated[int, typer.Option(help="Steps of every block in one turn.", min=16)]
Repeats = Annotated[int, typer.Option(help="Turns of each side.", min=1)]
Workers = Annotated[int, typer.Option(help="Worker processes on each side, one thread each.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object with `rows`.")]

progress = Console(stderr=True, highlight=False)


def show_rows(title: str, result: Mapping[str, Any], as_json: bool, *lines: str) -> None:
    """A table of the result's rows, or all of it as JSON."""
    if as_json:
        print(json.dumps(result))
        return
    rows: Sequence[Mapping[str, Any]] = result["rows"]
    columns = [column for column in rows[0] if not isinstance(rows[0][column], list)]
    table = Table(title=title, title_justify="left")
    for column in columns:
        justify: Literal["left", "right"] = "left" if isinstance(rows[0][column], str) else "right"
        table.add_column(column.replace("_", " "), justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    print_figures(table, *lines)


def _cell(value: Any) -> str:
    if value is None:
        return "never"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
