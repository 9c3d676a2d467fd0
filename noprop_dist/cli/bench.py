"""`bench`: what the project measures of itself."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

bench_app = typer.Typer(help="Benchmarks: both sides in one run, in turns.", no_args_is_help=True)


@bench_app.callback()
def _commands() -> None:
    """Benchmarks: both sides in one run, in turns."""


@bench_app.command()
def overhead(
    preset: Annotated[str, typer.Option(help="Data and network of the block-steps.")] = "digits",
    set_: Annotated[list[str] | None, typer.Option("--set", help="As for train.", metavar="KEY.PATH=VALUE")] = None,
    steps: Annotated[int, typer.Option(help="Steps of every block in one turn.")] = 100,
    repeats: Annotated[int, typer.Option(help="Turns of each side.")] = 5,
    workers: Annotated[int, typer.Option(help="Worker processes on each side, one thread each.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with `rows`.")] = False,
) -> None:
    """Block-steps per second of the Ray engine against bare torch processes that do the same block-steps."""
    from noprop_dist.bench.overhead import bench_overhead

    console = Console(stderr=True, highlight=False)
    result = bench_overhead(preset, set_ or [], steps, repeats, workers, console.print)
    if as_json:
        print(json.dumps(result.to_json()))
        return
    table = Table(title=f"block-steps per second, {workers} one-thread workers, {preset}", title_justify="left")
    for column in ("side", "median", "least", "most"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for row in result.rows():
        table.add_row(str(row["side"]), *(f"{row[key]:.2f}" for key in ("median", "least", "most")))
    Console(highlight=False).print(table, f"ratio of the medians, Ray engine to bare: {result.ratio:.3f}")
