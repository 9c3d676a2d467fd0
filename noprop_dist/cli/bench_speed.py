"""`bench`: how fast the trainer is, how good, and how much memory it takes."""

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
    check_choice,
    check_plot,
    draw,
    progress,
    show_rows,
)


def overhead(
    preset: Preset = "digits",
    set_: Set = None,
    steps: Steps = 640,
    repeats: Repeats = 5,
    workers: Workers = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Block-steps per second of the Ray engine against bare torch processes that do the same block-steps."""
    from noprop_dist.bench.overhead import bench_overhead

    check_choice("--device", device, ("cpu", "cuda"))
    result = bench_overhead(preset, set_ or [], device, steps, repeats, workers, progress.print)
    title = f"block-steps per second, {workers} one-thread workers, {preset}, {device}"
    show_rows(title, result.to_json(), as_json, f"ratio of the medians, Ray engine to bare: {result.ratio:.3f}")


def device(
    preset: Preset = "digits",
    set_: Set = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    made_up: Annotated[bool, typer.Option("--made-up", help="Random images of the data's size.")] = False,
    steps: Steps = 64,
    repeats: Repeats = 3,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Block-steps per second on one device, for each way of running the blocks, against a plain loop over them."""
    from noprop_dist.bench.device import bench_device
    from noprop_dist.bench.plots import device_figure

    check_choice("--device", device, ("auto", "cpu", "cuda"))
    check_plot(plot)
    rows = bench_device(preset, set_ or [], device, made_up, steps, repeats, progress.print)
    show_rows(f"one device, {preset}, {steps} steps of every block a turn", {"rows": rows}, as_json)
    draw(plot, device_figure, rows)


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

    check_choice("--kind", kind, ("learned", "prototype"))
    rows = bench_sync_steps(preset, set_ or [], kind, steps, repeats, workers, progress.print)
    show_rows(f"{steps} steps of {preset}, {workers} one-thread workers", {"rows": rows}, as_json)


def dispatch(
    rounds: Annotated[int, typer.Option(help="Of all blocks together, in one turn.", min=2000)] = 20_000,
    round_steps: Annotated[int, typer.Option(help="Steps in one round.", min=1)] = 128,
    sampling: Annotated[str, typer.Option(help="Who draws z: worker (which then does not) or coordinator.")] = "worker",
    repeats: Repeats = 3,
    workers: Workers = 2,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """What the engine costs for each block-step, with 10 to 200 blocks that do nothing."""
    from noprop_dist.bench.dispatch import bench_dispatch
    from noprop_dist.bench.plots import dispatch_figure

    check_choice("--sampling", sampling, ("worker", "coordinator"))
    check_plot(plot)
    rows = bench_dispatch(rounds, round_steps, sampling, workers, repeats, progress.print)
    growth = rows[-1]["microseconds_per_block_step"] / rows[0]["microseconds_per_block_step"]
    line = f"time per block-step, {rows[-1]['blocks']} blocks to {rows[0]['blocks']}: {growth:.2f}"
    title = f"no-op blocks in rounds of {round_steps}, {workers} workers, z drawn by the {sampling}"
    show_rows(title, {"rows": rows, "growth": growth}, as_json, line)
    draw(plot, dispatch_figure, rows)


def scaling(
    preset: Preset = "digits",
    set_: Set = None,
    steps: Steps = 1600,
    most: Annotated[int, typer.Option(help="Most workers whose blocks sleep.", min=1)] = 32,
    repeats: Repeats = 3,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Block-steps per second against the number of workers, against ideal; also with blocks that only sleep."""
    from noprop_dist.bench.plots import scaling_figure
    from noprop_dist.bench.scaling import bench_scaling

    check_plot(plot)
    rows = bench_scaling(preset, set_ or [], steps, most, repeats, progress.print)
    show_rows(f"one block for each worker, {preset} and 20 ms of sleep a step", {"rows": rows}, as_json)
    draw(plot, scaling_figure, rows)


def memory(
    preset: Preset = "mnist",
    set_: Set = None,
    steps: Annotated[int, typer.Option(help="Of every block, and of the baseline.", min=2)] = 4,
    repeats: Repeats = 3,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Peak memory of a block worker against end-to-end back-propagation, with 10 and 50 blocks."""
    from noprop_dist.bench.memory import bench_memory
    from noprop_dist.bench.plots import memory_figure

    check_plot(plot)
    rows = bench_memory(preset, set_ or [], steps, repeats, progress.print)
    growth = {side: rows[-1][f"{side}_mib"] / rows[0][f"{side}_mib"] for side in ("block_worker", "baseline")}
    line = f"50 blocks to 10: block worker {growth['block_worker']:.3f}, baseline {growth['baseline']:.3f}"
    show_rows(f"peak memory, {preset}", {"rows": rows, "growth": growth}, as_json, line)
    draw(plot, memory_figure, rows)


def accuracy(
    preset: Preset = "digits",
    set_: Set = None,
    target: Annotated[float, typer.Option(help="Accuracy on the test set, 0 to 1.", min=0, max=1)] = 0.98,
    steps: Steps = 400,
    every: Annotated[int, typer.Option(help="Steps from one evaluation to the next.", min=1)] = 20,
    repeats: Repeats = 3,
    as_json: Json = False,
) -> None:
    """Seconds of training until a network is as good as wanted, against end-to-end back-propagation."""
    from noprop_dist.bench.accuracy import bench_accuracy

    rows = bench_accuracy(preset, set_ or [], target, steps, every, repeats, progress.print)
    show_rows(f"seconds to {target:.1%} on {preset}, mean sampler", {"rows": rows, "target": target}, as_json)
