"""`bench`: what the project measures of itself. A command shows the rows of the benchmark of the same name."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from noprop_dist.cli.tables import check_plot, draw, show_rows
from noprop_dist.cli.terminal import Terminal
from noprop_dist.errors import UserError

Preset = Annotated[str, typer.Option(help="Data and network of the block-steps.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="As for train.", metavar="KEY.PATH=VALUE")]
Steps = Annotated[int, typer.Option(help="Steps of every block in one turn.", min=16)]
Repeats = Annotated[int, typer.Option(help="Turns of each side.", min=1)]
Workers = Annotated[int, typer.Option(help="Worker processes on each side, one thread each.", min=1)]
Plot = Annotated[Path | None, typer.Option(help="Also draw it into this file: .png, .pdf or .svg.", metavar="FILE")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object with `rows`.")]

bench_app = typer.Typer(help="Benchmarks: both sides in one run, in turns.", no_args_is_help=True)
progress = Terminal(stderr=True)


@bench_app.command()
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

    _check_choice("--device", device, ("cpu", "cuda"))
    result = bench_overhead(preset, set_ or [], device, steps, repeats, workers, progress.print)
    title = f"block-steps per second, {workers} one-thread workers, {preset}, {device}"
    line = f"ratio of the medians, Ray engine to bare: {result.ratio:.3f}"
    show_rows(title, result.rows(), as_json, line, ratio=result.ratio)


@bench_app.command()
def dispatch(
    *,
    rounds: Annotated[int, typer.Option(help="Of all blocks together, in one turn.", min=2000)] = 20_000,
    round_steps: Annotated[int, typer.Option(help="Steps in one round.", min=1)] = 128,
    sampling: Annotated[str, typer.Option(help="Who draws z: worker (which then does not) or coordinator.")] = "worker",
    repeats: Repeats = 3,
    workers: Workers = 2,
    blocks: Annotated[
        list[int] | None, typer.Option(help="T; may be given again (default: 10, 100 and 1000).", min=1)
    ] = None,
    simulated: Annotated[
        float | None,
        typer.Option(help="No Ray: a worker a block in this process, so long at a round.", metavar="SECONDS", min=0),
    ] = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """What the engine costs for each block-step, with 10, 100 and 1,000 blocks that do nothing, side by side."""
    from noprop_dist.bench.dispatch import BLOCKS, bench_dispatch, dispatch_figure

    _check_choice("--sampling", sampling, ("worker", "coordinator"))
    check_plot(plot)
    counts = sorted(set(blocks or BLOCKS))
    rows = bench_dispatch(counts, rounds, round_steps, sampling, workers, simulated, repeats, progress.print)
    growth = rows[-1].microseconds_per_block_step / rows[0].microseconds_per_block_step
    line = f"time per block-step, {rows[-1].blocks} blocks to {rows[0].blocks}: {growth:.2f}"
    on = f"{workers} workers" if simulated is None else f"a simulated worker a block, {simulated:g} s a round"
    title = f"no-op blocks in rounds of {round_steps}, {on}, z drawn by the {sampling}"
    show_rows(title, rows, as_json, line, growth=growth)
    draw(plot, dispatch_figure, rows)


@bench_app.command()
def start(preset: Preset = "digits", set_: Set = None, repeats: Repeats = 3, as_json: Json = False) -> None:
    """Seconds from the command to the first block-step and to the result, and what each process did until then."""
    from noprop_dist.bench.start import bench_start, phase_rows, start_rows

    starts = bench_start(preset, set_ or [], repeats, progress.print)
    phases = phase_rows(starts)
    if not as_json:
        show_rows("until the first block-step, medians", phases, as_json=False)
    show_rows(f"from the command, {preset}", start_rows(starts), as_json, phases=[asdict(each) for each in phases])


@bench_app.command()
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
    from noprop_dist.bench.scaling import bench_scaling, scaling_figure

    check_plot(plot)
    rows = bench_scaling(preset, set_ or [], steps, most, repeats, progress.print)
    show_rows(f"one block for each worker, {preset} and 20 ms of sleep a step", rows, as_json)
    draw(plot, scaling_figure, rows)


@bench_app.command()
def memory(
    preset: Preset = "mnist",
    set_: Set = None,
    steps: Annotated[int, typer.Option(help="Of every block, and of the baseline.", min=2)] = 4,
    repeats: Repeats = 3,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Peak memory of a block worker against end-to-end back-propagation, with 10 and 50 blocks."""
    from noprop_dist.bench.memory import bench_memory, growth, memory_figure

    check_plot(plot)
    rows = bench_memory(preset, set_ or [], steps, repeats, progress.print)
    grown = growth(rows)
    line = f"50 blocks to 10: block worker {grown['block_worker']:.3f}, baseline {grown['baseline']:.3f}"
    show_rows(f"peak memory, {preset}", rows, as_json, line, growth=grown)
    draw(plot, memory_figure, rows)


@bench_app.command()
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
    show_rows(f"seconds to {target:.1%} on {preset}, mean sampler", rows, as_json, target=target)


@bench_app.command()
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
    from noprop_dist.bench.device import bench_device, device_figure

    _check_choice("--device", device, ("auto", "cpu", "cuda"))
    check_plot(plot)
    rows = bench_device(preset, set_ or [], device, made_up, steps, repeats, progress.print)
    show_rows(f"one device, {preset}, {steps} steps of every block a turn", rows, as_json)
    draw(plot, device_figure, rows)


@bench_app.command()
def predict(
    run_dir: Annotated[str, typer.Argument(help="A run directory.")],
    images: Annotated[list[str], typer.Argument(help="As for predict.", metavar="IMAGES")],
    repeats: Repeats = 3,
    as_json: Json = False,
) -> None:
    """Seconds of `predict --out` with the mean sampler, against bare forward passes of the blocks."""
    from noprop_dist.bench.prediction import bench_prediction

    cost = bench_prediction(run_dir, images, repeats, progress.print)
    line = f"ratio of the medians, predict to bare: {cost.ratio:.3f}"
    show_rows("seconds for all images", cost.rows(), as_json, line, ratio=cost.ratio)


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

    _check_choice("--kind", kind, ("learned", "prototype"))
    rows = bench_sync_steps(preset, set_ or [], kind, steps, repeats, workers, progress.print)
    show_rows(f"{steps} steps of {preset}, {workers} one-thread workers", rows, as_json)


@bench_app.command()
def faults(
    count: Annotated[int, typer.Option(help="Faults to inject.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Of what is broken, and in which order.")] = 0,
    steps: Annotated[int, typer.Option(help="Of every block in each run.", min=200)] = 3000,
    as_json: Json = False,
) -> None:
    """Break a run on a real multi-node cluster on this machine, again and again, and compare every bit at its end."""
    from noprop_dist.bench.faults import bench_faults

    with _folder("faults") as folder:
        rows = bench_faults(count, seed, steps, folder, progress.print)
    show_rows(f"{count} faults, seed {seed}", rows, as_json, seed=seed)


@bench_app.command()
def elastic(
    seconds: Annotated[float, typer.Option(help="Of each of the first two phases.", min=20)] = 60,
    set_: Set = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Train ten blocks on 0 → 10 → 3 → 10 devices: Ray's autoscaler starts them, a made-up cloud takes them away.

    A device is a node of one core on this machine, and blocks sleep for most of a step. Says how many devices trained
    of those for which there was work, how long the first step took, and whether the bits are those of the sequential
    engine. It runs in process and network namespaces of its own, made by `unshare` of util-linux.
    """
    from noprop_dist.bench.elastic import bench_elastic, elastic_figure
    from noprop_dist.bench.namespaces import in_namespaces

    check_plot(plot)
    with _folder("elastic") as folder:
        measured = in_namespaces(bench_elastic, progress.print, seconds, None, set_ or [], folder)
    rows, total = measured.rows(), measured.total
    further = {
        "seconds_to_first_step": measured.first_step - measured.begun,
        "share": total.share,
        "device_seconds": {"there": total.there, "wanted": total.wanted, "training": total.training},
        "start_up_device_seconds": measured.start_up,
        "charged": measured.charged,
        "steps_done_twice": measured.replayed,
        "equal_fingerprints": measured.equal,
    }
    show_rows("devices of ten blocks (means)", rows, as_json, *measured.lines(), **further)
    draw(plot, elastic_figure, measured)


@bench_app.command()
def preemptions(
    count: Annotated[int, typer.Option(help="Nodes to preempt.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Of which nodes, and in which order.")] = 0,
    every: Annotated[float, typer.Option(help="Seconds from one to the next.", min=5)] = 10,
    steps: Annotated[int, typer.Option(help="Of every block in each run.", min=200)] = 3000,
    set_: Set = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Preempt nodes of a run of ten blocks, with a notice of four seconds and without; each is replaced by a new one.

    A node is one device of one core on this machine, and blocks sleep for most of a step. Victims hold a block worker,
    the classifier worker, the evaluator or the coordinator. Says what that costs: failure budget (engine.max_failures
    is 0), steps, and wall time against an undisturbed run; and compares every bit.
    """
    from noprop_dist.bench.preemptions import bench_preemptions, preemptions_figure, summary

    check_plot(plot)
    with _folder("preemptions") as folder:
        done = bench_preemptions(count, seed, every, steps, set_ or [], folder, progress.print)
    show_rows(f"nodes preempted every {every:g} s, seed {seed}", summary(done), as_json, seed=seed, every=every)
    draw(plot, preemptions_figure, done)


@bench_app.command()
def simulate(
    context: typer.Context,
    *,
    runs: Annotated[int, typer.Option(help="Runs to simulate, of seeds that follow each other.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the first random run; the next has the next.")] = 0,
    blocks: Annotated[int, typer.Option(help="Blocks of each run.", min=1, max=100)] = 10,
    rounds: Annotated[int, typer.Option(help="Rounds of each block.", min=1, max=1000)] = 50,
    faults: Annotated[int, typer.Option(help="Most faults in one run; half as many on average.", min=0, max=200)] = 20,
    exhaustive: Annotated[
        bool,
        typer.Option("--exhaustive", help="Not random runs: short ones, each process killed at every moment."),
    ] = False,
    schedule: Annotated[
        Path | None,
        typer.Option(help="Not random runs, but the one of a schedule that a failure was shrunk to.", metavar="FILE"),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show all that happens in one run.")] = False,
    as_json: Json = False,
) -> None:
    """Simulate the whole engine on virtual time, break it at random, and compare every bit; without Ray and a disk."""
    from noprop_dist.api.stop_signals import ASKING, stop_signals
    from noprop_dist.bench.simulate import Wanted, bench_simulate, show_course
    from noprop_dist.simulation.scenario import Size

    if exhaustive or schedule is not None:
        _check_random_only(context, "--exhaustive" if exhaustive else "--schedule")
    if exhaustive and schedule is not None:
        raise UserError(f"--schedule {schedule}: is one run, and --exhaustive are many; give one of both")
    if trace and (exhaustive or as_json or (schedule is None and runs > 1)):
        raise UserError(
            "--trace: shows one run as text; give --runs 1 or --schedule, and neither --exhaustive nor --json"
        )
    wanted = Wanted(runs, seed, Size(blocks, rounds, faults), exhaustive, schedule)
    if trace:
        raise typer.Exit(0 if show_course(wanted, Terminal().print) else 1)
    ending = "ending after this run; Ctrl-C once more ends at once"
    with stop_signals(lambda _: progress.print(ending), ASKING[:2]) as stop:
        result = bench_simulate(wanted, progress.print, stop)
    lines = [line for finding in result.findings for line in finding.lines()]
    show_rows("faults that struck simulated runs", result.rows(), as_json, *lines, result.line(), **result.figures())
    if result.findings:
        raise typer.Exit(1)
    if stop.signal is not None:
        raise typer.Exit(128 + stop.signal)


@bench_app.command()
def isolation(
    seconds: Annotated[float, typer.Option(help="Of one phase.", min=10)] = 40,
    repeats: Repeats = 3,
    as_json: Json = False,
) -> None:
    """Block-steps per second of the others while one worker is killed again and again, against undisturbed."""
    from noprop_dist.bench.isolation import bench_isolation

    with _folder("isolation") as folder:
        result = bench_isolation(seconds, repeats, folder, progress.print)
    title = f"one of two workers killed {len(result.absences)} times"
    line = f"ratio of the medians, while killing to undisturbed: {result.ratio:.3f}"
    show_rows(title, result.rows(), as_json, line, ratio=result.ratio)


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

    cost, default = (
        bench_snapshots(preset, set_ or [], every, steps, repeats, workers, progress.print),
        default_cadence(),
    )
    line = (
        f"one snapshot takes {1000 * cost.seconds:.0f} ms of training: {cost.share(every):.2%} of the throughput at "
        f"every {every} steps, {cost.share(default):.2%} at every {default} (the default)"
    )
    shares = {"share_as_measured": cost.share(every), "share_at_default": cost.share(default)}
    further = {"seconds_per_snapshot": cost.seconds, "default_every": default, **shares}
    show_rows(f"block-steps per second, {workers} one-thread workers, {preset}", cost.rows(), as_json, line, **further)


@bench_app.command()
def tracking(
    preset: Preset = "digits",
    set_: Set = None,
    steps: Steps = 1600,
    repeats: Repeats = 5,
    workers: Workers = 2,
    as_json: Json = False,
) -> None:
    """What TensorBoard, MLflow and Weights & Biases cost of a run's throughput, against none of them."""
    from noprop_dist.bench.tracking import bench_tracking

    rows = bench_tracking(preset, set_ or [], steps, repeats, workers, progress.print)
    show_rows(f"block-steps per second, {workers} one-thread workers, {preset}", rows, as_json)


@bench_app.command()
def straggler(
    seconds: Annotated[float, typer.Option(help="To watch for.", min=10)] = 300,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Memory of coordinator and object store while one block is ten times slower than the others."""
    from noprop_dist.bench.straggler import bench_straggler, straggler_figure, summary

    check_plot(plot)
    with _folder("straggler") as folder:
        samples = bench_straggler(seconds, folder, progress.print)
    show_rows("most memory in use in each fifth of the time", summary(samples), as_json)
    draw(plot, straggler_figure, samples)


@bench_app.command()
def soak(
    minutes: Annotated[float, typer.Option(help="To watch for.", min=0.2)] = 60,
    set_: Set = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Memory of every process of a run over a long time, at about 20 rounds a second: does each level off?"""
    from noprop_dist.bench.soak import bench_soak, soak_figure

    check_plot(plot)
    with _folder("soak") as folder:
        measured = bench_soak(minutes, set_ or [], folder, progress.print)
    rate = f"{measured.rounds_per_second:.1f} rounds/s"
    title = f"private memory over {minutes:g} minutes at {rate}, with the growth in the second half"
    show_rows(title, measured.rows, as_json, rounds_per_second=measured.rounds_per_second)
    draw(plot, soak_figure, measured)


def _check_random_only(context: typer.Context, other: str) -> None:
    """Refuse options of random runs where no run is random.

    Raises:
        UserError: names the first.
    """
    for name in ("runs", "seed", "blocks", "rounds", "faults"):
        if str(context.get_parameter_source(name)).endswith("COMMANDLINE"):
            raise UserError(f"--{name}: is of random runs, and with {other} none is; leave it out")


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    """A folder for runs, which is deleted again."""
    with tempfile.TemporaryDirectory(prefix=f"noprop-dist-{name}-") as folder:
        yield Path(folder)


def _check_choice(option: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that an option does not know.

    Raises:
        UserError: names what is allowed.
    """
    if value not in allowed:
        raise UserError(f"{option} {value}: allowed are {', '.join(allowed[:-1])} and {allowed[-1]}")
