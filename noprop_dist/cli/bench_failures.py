"""`bench`: what failures, snapshots and stragglers cost."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from noprop_dist.cli.bench_options import (
    Json,
    Plot,
    Preset,
    Repeats,
    Set,
    Steps,
    Workers,
    check_plot,
    draw,
    progress,
    show_rows,
)


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
    show_rows(f"{count} faults, seed {seed}", {"rows": rows, "seed": seed}, as_json)


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
    show_rows(title, {"rows": result.rows(), "ratio": result.ratio}, as_json, ratio)


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
    show_rows(f"block-steps per second, {workers} one-thread workers, {preset}", cost.to_json(), as_json, lines)


def straggler(
    seconds: Annotated[float, typer.Option(help="To watch for.", min=10)] = 300,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Memory of coordinator and object store while one block is ten times slower than the others."""
    from noprop_dist.bench.straggler import bench_straggler, straggler_figure, summary

    check_plot(plot)
    with tempfile.TemporaryDirectory(prefix="noprop-dist-straggler-") as folder:
        samples = bench_straggler(seconds, Path(folder), progress.print)
    show_rows("most memory in use in each fifth of the time", {"rows": summary(samples)}, as_json)
    draw(plot, straggler_figure, samples)
