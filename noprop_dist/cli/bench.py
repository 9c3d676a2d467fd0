"""`bench`: what the project measures of itself."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from noprop_dist.cli.figures import print_figures
from noprop_dist.errors import UserError

bench_app = typer.Typer(help="Benchmarks: both sides in one run, in turns.", no_args_is_help=True)

Preset = Annotated[str, typer.Option(help="Data and network of the block-steps.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="As for train.", metavar="KEY.PATH=VALUE")]
Steps = Annotated[int, typer.Option(help="Steps of every block in one turn.", min=16)]
Repeats = Annotated[int, typer.Option(help="Turns of each side.", min=1)]
Workers = Annotated[int, typer.Option(help="Worker processes on each side, one thread each.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object with `rows`.")]

progress = Console(stderr=True, highlight=False)


@bench_app.callback()
def _commands() -> None:
    """Benchmarks: both sides in one run, in turns."""


@bench_app.command()
def overhead(
    preset: Preset = "digits",
    set_: Set = None,
    steps: Steps = 100,
    repeats: Repeats = 5,
    workers: Workers = 2,
    as_json: Json = False,
) -> None:
    """Block-steps per second of the Ray engine against bare torch processes that do the same block-steps."""
    from noprop_dist.bench.overhead import bench_overhead

    result = bench_overhead(preset, set_ or [], steps, repeats, workers, progress.print)
    title = f"block-steps per second, {workers} one-thread workers, {preset}"
    _show(title, result.to_json(), as_json, f"ratio of the medians, Ray engine to bare: {result.ratio:.3f}")


@bench_app.command()
def faults(
    count: Annotated[int, typer.Option(help="Faults to inject.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Of what is broken, and in which order.")] = 0,
    steps: Annotated[int, typer.Option(help="Of every block in each run.", min=200)] = 3000,
    as_json: Json = False,
) -> None:
    """Break a run on a real multi-node cluster on this machine, again and again, and compare every bit at its end."""
    from noprop_dist.bench.faults import bench_faults

    with tempfile.TemporaryDirectory(prefix="noprop-dist-faults-") as folder:
        rows = bench_faults(count, seed, steps, Path(folder), progress.print)
    _show(f"{count} faults, seed {seed}", {"rows": rows, "seed": seed}, as_json)


@bench_app.command()
def isolation(
    seconds: Annotated[float, typer.Option(help="Of one phase.", min=10)] = 40,
    repeats: Repeats = 3,
    as_json: Json = False,
) -> None:
    """Block-steps per second of the others while one worker is killed again and again, against undisturbed."""
    from noprop_dist.bench.isolation import bench_isolation

    with tempfile.TemporaryDirectory(prefix="noprop-dist-isolation-") as folder:
        result = bench_isolation(seconds, repeats, Path(folder), progress.print)
    title = f"one of two workers killed {len(result.absences)} times"
    ratio = f"ratio of the medians, while killing to undisturbed: {result.ratio:.3f}"
    _show(title, {"rows": result.rows(), "ratio": result.ratio}, as_json, ratio)


@bench_app.command()
def snapshots(
    preset: Preset = "mnist",
    set_: Set = None,
    every: Annotated[int, typer.Option(help="Steps from a snapshot to the next.", min=1)] = 8,
    steps: Steps = 64,
    repeats: Repeats = 5,
    workers: Workers = 2,
    as_json: Json = False,
) -> None:
    """What a block's snapshots cost of its throughput, at a dense cadence and, from that, at the default one."""
    from noprop_dist.bench.snapshots import bench_snapshots, default_cadence

    cost = bench_snapshots(preset, set_ or [], every, steps, repeats, workers, progress.print)
    default = default_cadence()
    lines = (
        f"one snapshot takes {1000 * cost.seconds:.0f} ms of training: {cost.share(every):.2%} of the throughput at "
        f"every {every} steps, {cost.share(default):.2%} at every {default} (the default)"
    )
    _show(f"block-steps per second, {workers} one-thread workers, {preset}", cost.to_json(), as_json, lines)


@bench_app.command()
def sync_steps(
    preset: Preset = "digits",
    set_: Set = None,
    kind: Annotated[str, typer.Option(help="learned or prototype.")] = "learned",
    steps: Steps = 384,
    repeats: Repeats = 3,
    workers: Workers = 2,
    as_json: Json = False,
) -> None:
    """Accuracy and throughput against embedding.sync_steps: how long a version of a learned W_embed lasts."""
    from noprop_dist.bench.sync_steps import bench_sync_steps

    if kind not in ("learned", "prototype"):
        raise UserError(f"--kind {kind}: allowed are learned and prototype")
    rows = bench_sync_steps(preset, set_ or [], kind, steps, repeats, workers, progress.print)
    _show(f"{steps} steps of {preset}, {workers} one-thread workers", {"rows": rows}, as_json)


@bench_app.command()
def straggler(
    seconds: Annotated[float, typer.Option(help="To watch for.", min=10)] = 300,
    plot: Annotated[Path | None, typer.Option(help="Also draw it into this PNG file.")] = None,
    as_json: Json = False,
) -> None:
    """Memory of coordinator and object store while one block is ten times slower than the others."""
    from noprop_dist.bench.straggler import bench_straggler, memory_figure, summary

    if plot is not None and not plot.parent.is_dir():
        raise UserError(f"--plot {plot}: there is no folder {plot.parent}")
    with tempfile.TemporaryDirectory(prefix="noprop-dist-straggler-") as folder:
        samples = bench_straggler(seconds, Path(folder), progress.print)
    if plot is not None:
        memory_figure(samples).savefig(plot, dpi=110)
    _show("most memory in use in each fifth of the time", {"rows": summary(samples)}, as_json)


def _show(title: str, result: Mapping[str, Any], as_json: bool, *lines: str) -> None:
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
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
