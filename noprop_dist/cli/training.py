"""`train` and `resume`: from settings to a finished run."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from noprop_dist.cli.progress import ProgressView, progress_view
from noprop_dist.configuration.layers import load_config, merge, setting_layer, validated
from noprop_dist.configuration.settings import RunConfig
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.training.device import choose_device
from noprop_dist.training.setup import RunSetup, prepare

messages = Console(stderr=True, highlight=False, soft_wrap=True)


def configured(
    preset: str | None, file: Path | None, settings: Sequence[str], engine: str | None, address: str | None
) -> RunConfig:
    """The configuration that the options of `train` and `plan` describe."""
    options = [f"engine.kind={engine}"] if engine else []
    options += [f'engine.address="{address}"'] if address else []
    return load_config(preset, file, [*settings, *options])


def start_run(config: RunConfig, run_dir: str | None) -> None:
    """Train in a new run directory, whose path is the last line on standard output."""
    directory = RunDirectory(run_dir or f"runs/{config.data.name}-{datetime.now():%Y%m%d-%H%M%S}")
    directory.check_unused()
    _train(config, directory, resume=False)
    print(directory)


def resume_run(run_dir: str, settings: Sequence[str], address: str | None) -> None:
    """Continue a run; only where and how it is run may change."""
    directory = RunDirectory(run_dir)
    values = directory.config().model_dump(mode="json")
    for setting in [*settings, *([f'engine.address="{address}"'] if address else [])]:
        if setting.partition(".")[0] not in ("engine", "metrics"):
            raise UserError(
                f"--set {setting}: resume only takes engine.* and metrics.* settings; others change the run"
            )
        values = merge(values, setting_layer(setting))
    config, steps = validated(values), directory.checkpoint_steps()
    if steps and steps[-1] >= RunSetup(config, directory.facts()).total_steps:
        messages.print(f"the run is finished: all {steps[-1]:,} steps are done")
    else:
        _train(config, directory, resume=True)
    print(directory)


def _train(config: RunConfig, directory: RunDirectory, resume: bool) -> None:
    with progress_view() as view:
        try:
            evaluation = (
                _train_sequentially(config, directory, view, resume)
                if config.engine.kind == "sequential"
                else _train_on_ray(config, directory, view, resume)
            )
        except KeyboardInterrupt:
            raise TrainingError(f"stopped; `noprop-dist resume {directory}` continues the run") from None
    if evaluation is not None:
        messages.print(_results(evaluation))


def _train_sequentially(
    config: RunConfig, directory: RunDirectory, view: ProgressView, resume: bool
) -> CheckpointEvaluation | None:
    from noprop_dist.training.sequential import train_sequentially

    setup, data = prepare(config)
    choose_device(config.engine.device)
    if not resume:
        directory.create(config, setup.facts)
    view.say(f"run directory: {directory}")
    return train_sequentially(setup, data, directory, view.show)


def _train_on_ray(
    config: RunConfig, directory: RunDirectory, view: ProgressView, resume: bool
) -> CheckpointEvaluation | None:
    from noprop_dist.distributed.cluster import is_remote
    from noprop_dist.distributed.driver import train_on_ray

    if not is_remote(config.engine.address):
        view.say("checking data and networks")
        prepare(config)  # a mistake is told before Ray takes its seconds to start
        view.say(f"run directory: {directory}")
        view.say("starting Ray")
    return train_on_ray(config, str(directory), view.show, resume).evaluation


def _results(evaluation: CheckpointEvaluation) -> Table:
    table = Table(title=f"after {evaluation.step} steps", title_justify="left")
    for column in ("split", "sampler", "samples", "accuracy", "nearest embedding"):
        table.add_column(column, justify="left" if column in ("split", "sampler") else "right")
    for split, result in evaluation.results:
        accuracies = (f"{share:.2%}" for share in (result.accuracy, result.nearest_embedding_accuracy))
        table.add_row(split, result.sampler, f"{result.samples:,}", *accuracies)
    return table
