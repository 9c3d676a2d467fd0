"""The commands of `noprop-dist`, and how their errors reach the user."""

import platform
import shutil
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from noprop_dist import __version__
from noprop_dist.cli.bench import bench_app
from noprop_dist.cli.imports import without_collection
from noprop_dist.cli.job import job_app
from noprop_dist.cli.terminal import LastingOutput, Terminal, shown, standard_streams, working
from noprop_dist.config.layers import PRESETS
from noprop_dist.errors import TrainingError, UserError, why
from noprop_dist.phases import note_start, phase

FRAMED_COLUMNS = 72
"""Help in frames needs so many."""

app = typer.Typer(
    name="noprop-dist",
    help="Block-parallel training of NoProp networks (arXiv 2503.24322) on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Loaded(TyperCommand):
    """A command that needs all libraries: their import takes seconds, on a loaded machine half a minute."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command, after a spinner for as long as the libraries take."""
        with working("loading"), without_collection():
            from noprop_dist.api import train  # noqa: F401
        return super().invoke(ctx)


command = partial(app.command, cls=Loaded)
app.add_typer(bench_app, name="bench")
app.add_typer(job_app, name="job")

Preset = Annotated[
    str | None,
    typer.Option(help=f"{', '.join(PRESETS)}. Without --preset and --config: digits.", metavar="NAME"),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings in YAML, over the preset.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, over preset and file; may be repeated.", metavar="KEY.PATH=VALUE"),
]
Engine = Annotated[str | None, typer.Option(help="ray or sequential (one process, no Ray).", metavar="NAME")]
Method = Annotated[
    str | None, typer.Option(help="noprop, or backprop: the paper's baseline, end to end by Ray Train.", metavar="NAME")
]
Address = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster, HOST:PORT. Without it $RAY_ADDRESS, else a Ray of our own."),
]
RunDir = Annotated[str, typer.Argument(help="A run directory: a path or a URI such as s3://bucket/run.")]
Sampler = Annotated[str, typer.Option(help="mean (no noise on the way) or stochastic (Eq. 3).", metavar="NAME")]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Import networks that the run names, though no train here named them."),
]
Checkpoint = Annotated[
    str, typer.Option(help="last, best (by checkpoint.score, or else validation accuracy) or a step.")
]
StepsPerBlock = Annotated[
    int | None,
    typer.Option(
        help="Steps that each block takes through its range of noise levels. Default: the run's.",
        show_default=False,
    ),
]
DataRoot = Annotated[
    str | None, typer.Option(help="Where the run's data lies now, if it has moved.", metavar="PATH", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        packages = [f"{name} {version(name)}" for name in ("torch", "ray")]  # imports none
        typer.echo(", ".join([f"noprop-dist {__version__}", *packages, f"Python {platform.python_version()}"]))
        raise typer.Exit


@app.callback()
def _before_any_command(
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the versions of noprop-dist, torch, Ray and Python.", callback=_show_version
        ),
    ] = False,
) -> None:
    pass


@app.command()
def train(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    engine: Engine = None,
    run_dir: Annotated[
        str | None, typer.Option(help="Where the run is kept: a path or URI. Default: runs/DATA-DATE-TIME-RANDOM.")
    ] = None,
    address: Address = None,
    method: Method = None,
    or_resume: Annotated[
        bool,
        typer.Option("--or-resume", help="Go on with the same run where --run-dir holds it already."),
    ] = False,
    *,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Also print what each process did until the first block-step.")
    ] = False,
) -> None:
    """Train a network; prints the run directory."""
    from noprop_dist.api.ahead import ray_ahead
    from noprop_dist.cli.options import configured

    settings = configured(preset, config, set_ or [], engine, address, method)
    note_start("command line")
    with ray_ahead(settings):
        with working("loading"), phase("imports"):
            from noprop_dist.cli.training import start_run
        start_run(settings, run_dir, or_resume, timeline=timeline)


@command()
def resume(
    run_dir: RunDir,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A setting that changes no bits; blocks.training.N.* and learning rates of stages hold from here on; "
            "training.epochs or training.max_steps: how long the run is, finished or not.",
        ),
    ] = None,
    address: Address = None,
    data_root: DataRoot = None,
    trust_code: Annotated[
        bool,
        typer.Option(
            "--trust-code",
            help="Import networks and join the cluster that the run names, though no train on this machine named them.",
        ),
    ] = False,
) -> None:
    """Continue a run from the newest snapshot of every block."""
    from noprop_dist.cli.training import resume_run

    resume_run(run_dir, set_ or [], address, data_root, trust_code)


@command()
def reproduce(
    data: Annotated[str, typer.Argument(help="mnist, cifar10 or cifar100.", metavar="DATA")],
    seeds: Annotated[int, typer.Option(help="Runs of each row, with seeds 0, 1, ….", min=1)] = 3,
    epochs: Annotated[int | None, typer.Option(help="Default: the paper's, 100 or 150.", min=1)] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the runs. Default: runs/reproduce-DATA.")] = None,
    set_: Set = None,
) -> None:
    """The paper's table beside ours: NoProp with three embeddings, and back-propagation; skips what is done."""
    from noprop_dist.cli.reproduce import show_reproduction

    show_reproduction(data, seeds, epochs, out or f"runs/reproduce-{data}", set_ or [])


@command()
def pack(
    out: Annotated[str, typer.Argument(help="A new folder, under a path that every node reaches.")],
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
) -> None:
    """Pack a data set into files that are mapped and not read: for data that is larger than memory."""
    from noprop_dist.cli.options import configured
    from noprop_dist.cli.pack import pack_into

    pack_into(out, configured(preset, config, set_ or [], None, None).data, set_ or [])


@command()
def plan(
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    engine: Engine = None,
    run_dir: Annotated[str | None, typer.Option(help="Checked for an earlier run; nothing is written.")] = None,
    address: Annotated[str | None, typer.Option(help="Plan for this cluster in place of this machine.")] = None,
    method: Method = None,
) -> None:
    """Show which block goes where and what it takes, and start nothing."""
    from noprop_dist.cli.options import configured
    from noprop_dist.cli.plan import show_plan

    show_plan(configured(preset, config, set_ or [], engine, address, method), run_dir)


@command()
def evaluate(
    run_dir: RunDir,
    sampler: Sampler = "mean",
    passes: Annotated[int, typer.Option(help="Average over so many passes of the reverse process.")] = 1,
    *,
    checkpoint: Checkpoint = "last",
    per_block: Annotated[bool, typer.Option("--per-block", help="Also each block along the chain, and alone.")] = False,
    steps_per_block: StepsPerBlock = None,
    data_root: DataRoot = None,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> None:
    """Accuracy of one of a run's checkpoints on the whole test set."""
    from noprop_dist.cli.evaluate import show_evaluation

    show_evaluation(
        run_dir,
        sampler,
        passes,
        checkpoint,
        per_block=per_block,
        steps_per_block=steps_per_block,
        data_root=data_root,
        as_json=as_json,
        trust_code=trust_code,
    )


@command()
def predict(
    run_dir: RunDir,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, light on dark where the training data are, or folders of them; or one data.npz "
            "(array x, else x_test) or packed data set (its test split).",
            metavar="IMAGES",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            help="Write classes and all probabilities to a .csv or .parquet file; the same command goes on with one "
            "that was interrupted.",
            show_default=False,
        ),
    ] = None,
    sampler: Sampler = "mean",
    passes: Annotated[int, typer.Option(help="Average over so many passes of the reverse process.")] = 1,
    *,
    checkpoint: Checkpoint = "last",
    steps_per_block: StepsPerBlock = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list; with --out, one JSON object.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Class and probability of images, on standard output or in a file."""
    from noprop_dist.cli.options import checked_sampler
    from noprop_dist.cli.predict import Asked, show_predictions, write_predictions

    asked = Asked(
        sampler=checked_sampler(sampler, passes),
        passes=passes,
        checkpoint=checkpoint,
        steps_per_block=steps_per_block,
        trust_code=trust_code,
    )
    if out is None:
        show_predictions(run_dir, images, asked, as_json=as_json)
    else:
        write_predictions(run_dir, images, out, asked, as_json=as_json)


@command()
def export(
    run_dir: RunDir,
    format_: Annotated[str, typer.Option("--format", help="torch-export, onnx or safetensors.", metavar="NAME")],
    out: Annotated[str, typer.Option(help="A new file; for safetensors a new folder.", metavar="PATH")],
    *,
    checkpoint: Checkpoint = "last",
    sampler: Sampler = "mean",
    passes: Annotated[int, typer.Option(help="Average over so many passes of the reverse process.")] = 1,
    noise: Annotated[str, typer.Option(help="stored in it, or an input of the graph.", metavar="NAME")] = "stored",
    seed: Annotated[
        int | None, typer.Option(help="Of the noise that is stored. Default: the run's.", show_default=False)
    ] = None,
    steps_per_block: StepsPerBlock = None,
    trust_code: TrustCode = False,
) -> None:
    """The whole network as one file for other programs, normalisation and noise in it; prints where it is."""
    from noprop_dist.cli.export import write_export

    write_export(
        run_dir,
        format_,
        out,
        checkpoint,
        sampler=sampler,
        passes=passes,
        seed=seed,
        steps_per_block=steps_per_block,
        noise=noise,
        trust_code=trust_code,
    )


@command()
def inspect(run_dir: RunDir, as_json: Json = False) -> None:
    """Configuration, steps, metrics and the fingerprint of every block's weights."""
    from noprop_dist.cli.inspect import show_run

    show_run(run_dir, as_json)


@command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Run directories: paths or URIs.")],
    group: Annotated[
        bool,
        typer.Option("--group", help="One row for runs that differ in their seeds alone: mean ± standard error."),
    ] = False,
    sort: Annotated[
        str | None,
        typer.Option(
            help="A figure by its name in --json (test_accuracy, training_seconds, …), the best first; or name, seed, "
            "steps, epochs, or a setting that differs.",
            metavar="NAME",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Also draw accuracy over training time and epochs into this file: .png, .pdf or .svg.", metavar="FILE"
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables for a document.")] = False,
    as_json: Json = False,
) -> None:
    """Runs side by side: settings that differ, accuracy, ELBO, time, memory and parameters."""
    from noprop_dist.cli.compare import show_comparison

    show_comparison(runs, sort, plot, group=group, markdown=markdown, as_json=as_json)


@command()
def merge(
    out: Annotated[str, typer.Argument(help="The new run directory.")],
    runs: Annotated[list[str], typer.Argument(help="Runs that each trained some of the blocks (blocks.only).")],
) -> None:
    """Assemble one network from blocks that were trained in different runs; prints the new run directory."""
    from noprop_dist import api
    from noprop_dist.cli.options import warn

    merged = api.merge(out, runs, say=lambda line: warn([line]))
    warn(merged.warnings)
    print(shown(merged.directory))


@command()
def report(run_dir: RunDir, data_root: DataRoot = None, trust_code: TrustCode = False) -> None:
    """Write report.html and PNG plots into the run directory."""
    from noprop_dist.cli.report import write_report

    write_report(run_dir, data_root, trust_code)


def _fitting_help() -> dict[str, int]:
    """Let help be plain text on a narrow terminal: in a frame and three columns words would be cut off there.

    Returns:
        Options for the call of `app`.
    """
    columns = shutil.get_terminal_size().columns
    app.rich_markup_mode = "rich" if columns >= FRAMED_COLUMNS else None
    if columns >= FRAMED_COLUMNS:
        return {}
    for group in (app, bench_app, job_app):
        for each in group.registered_commands:
            each.short_help = each.callback and each.callback.__doc__  # else it is cut to one line
        for part in group.registered_groups:
            part.short_help = None if part.typer_instance is None else part.typer_instance.info.help
    return {"terminal_width": columns - 1}


def main(arguments: list[str] | None = None) -> Any:
    """Run one command: exit code 0, 2 for what the user can mend, 1 for a run that failed, 128 + n for signal n.

    130 is Ctrl-C, 143 SIGTERM, and 141 a pipe that nobody reads any more, as if SIGPIPE had come.
    """
    errors = Terminal(file=LastingOutput.of(sys.stderr))
    try:
        with standard_streams():
            app(args=arguments, **_fitting_help())
    except (UserError, OSError) as error:  # storage that does not answer, is full or refuses the user
        errors.print(f"noprop-dist: {why(error, with_file=True)}", style="red")
        raise SystemExit(2) from None
    except TrainingError as error:
        errors.print(f"noprop-dist: {error}", style="red")
        raise SystemExit(1) from None
