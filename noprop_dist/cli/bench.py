"""`bench`: what the project measures of itself."""

import json
import tempfile
from pathlib import Path
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


@bench_app.command()
def faults(
    count: Annotated[int, typer.Option(help="Faults to inject.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Of what is broken, and in which order.")] = 0,
    steps: Annotated[int, typer.Option(help="Of every block in each run.", min=200)] = 3000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with `rows`.")] = False,
) -> None:
    """Break a run on a real multi-node cluster on this machine, again and again, and compare every bit at its end."""
    from noprop_dist.bench.faults import bench_faults

    console = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory(prefix="noprop-dist-faults-") as folder:
        rows = bench_faults(count, seed, steps, Path(folder), console.print)
    if as_json:
        print(json.dumps({"rows": rows, "seed": seed}))
        return
    table = Table(title=f"{count} faults, seed {seed}", title_justify="left")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), justify="left" if column == "fault" else "right")
    for row in rows:
        table.add_row(*(f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(highlight=False).print(table)
