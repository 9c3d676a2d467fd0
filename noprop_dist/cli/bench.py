"""`bench`: what the project measures of itself."""

import typer

from noprop_dist.cli import bench_failures, bench_speed

bench_app = typer.Typer(help="Benchmarks: both sides in one run, in turns.", no_args_is_help=True)

for command in (
    *(bench_speed.overhead, bench_speed.dispatch, bench_speed.scaling, bench_speed.memory, bench_speed.accuracy),
    bench_speed.device,
    *(bench_speed.sync_steps, bench_failures.faults, bench_failures.isolation, bench_failures.snapshots),
    bench_failures.straggler,
):
    bench_app.command()(command)
