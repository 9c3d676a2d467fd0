"""`train` and `resume`: from settings to a finished run."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from noprop_dist.cli.progress import ProgressView, progress_view
from noprop_dist.cli.stop_signals import StopRequest, stop_signals
from noprop_dist.config.bits import changed_bits, continued, setting_at, shown
from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import RunConfig
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.training.device import choose_device
from noprop_dist.training.messages import RunOutcome
from noprop_dist.training.preparation import check, prepare
from noprop_dist.training.setup import RunSetup

messages = Console(stderr=True, highlight=False, soft_wrap=True)


def configured(
    preset: str | None,
    file: Path | None,
    settings: Sequence[str],
    engine: str | None,
    address: str | None,
    method: str | None = None,
) -> RunConfig:
    """The configuration that the options of `train` and `plan` describe."""
    options = [f"engine.kind={engine}"] if engine else []
    options += [f"method={method}"] if method else []
    options += [f'engine.address="{address}"'] if address else []
    return load_config(preset, file, [*settings, *options])


def start_run(config: RunConfig, run_dir: str | None, or_resume: bool = False) -> None:
    """Train in a new run directory, whose path is the last line on standard output.

    Args:
        config: of the run.
        run_dir: where; by default a folder named after the data and the time.
        or_resume: go on with the same run where it is there already.
    """
    if or_resume and run_dir is None:
        raise UserError("--or-resume: takes --run-dir, where the run may be already")
    directory = RunDirectory(run_dir or f"runs/{config.data.name}-{datetime.now():%Y%m%d-%H%M%S}")
    if or_resume and directory.holds_run:
        check_same_run(directory, config)
        _continue(config, directory, [])
    else:
        directory.check_unused()
        _train(config, directory, resume=False)
    print(directory)


def check_same_run(directory: RunDirectory, config: RunConfig) -> None:
    """Check that a run directory holds a run of this configuration, apart from settings that change no bits.

    Raises:
        UserError: it does not; names the first difference.
    """
    before = directory.config()
    changed = changed_bits(before, config)
    if changed:
        key = changed[0]
        old, new = (shown(setting_at(each, key)) for each in (before, config))
        raise UserError(f"{directory}: holds a run whose {key} is {old}, not {new}; give another folder")


def resume_run(run_dir: str, settings: Sequence[str], address: str | None) -> None:
    """Continue a run; what changes no bits may change, and how single stages are trained from here on."""
    directory = RunDirectory(run_dir)
    options = [f'engine.address="{address}"'] if address else []
    config, changes = continued(directory.config(), [*settings, *options])
    _continue(config, directory, changes)
    print(directory)


def _continue(config: RunConfig, directory: RunDirectory, changes: list[str]) -> None:
    if _is_finished(directory, RunSetup(config, directory.facts())):
        messages.print("the run is finished: all steps are done")
    else:
        _note_changes(directory, changes)
        _train(config, directory, resume=True)


def _is_finished(directory: RunDirectory, setup: RunSetup) -> bool:
    steps = directory.checkpoints.steps()
    measured = any(record["kind"] == "evaluation" and record["final"] for record in directory.metrics())
    return bool(steps) and steps[-1] >= setup.total_steps and (measured or not setup.evaluates)


def _note_changes(directory: RunDirectory, changes: list[str]) -> None:
    """Write down from which step of each stage changed settings hold; manifests repeat it."""
    if changes:
        last = {name: steps[-1] for name, steps in directory.checkpoints.saved_steps().items()}
        with directory.only_writer():
            directory.add_changes(changes, last)


def _train(config: RunConfig, directory: RunDirectory, resume: bool) -> None:
    with progress_view() as view, stop_signals(view.say) as request:
        try:
            outcome = _engine(config)(config, directory, view, resume, request)
        except KeyboardInterrupt:
            raise TrainingError(f"stopped; `noprop-dist resume {directory}` continues the run") from None
    if outcome.evaluation is not None:
        messages.print(_results(outcome.evaluation))
    if outcome.stopped and request.signal is not None:
        messages.print(f"stopped and saved; `noprop-dist resume {directory}` continues the run")
        raise SystemExit(128 + request.signal)


def _engine(config: RunConfig) -> Callable[[RunConfig, RunDirectory, ProgressView, bool, StopRequest], RunOutcome]:
    return _train_sequentially if config.engine.kind == "sequential" else _train_on_ray


def _train_sequentially(
    config: RunConfig, directory: RunDirectory, view: ProgressView, resume: bool, request: StopRequest
) -> RunOutcome:
    from noprop_dist.engines.sequential import train_sequentially

    setup, data = prepare(config)
    if resume:
        _check_same_data(directory, setup)
    choose_device(config.engine.device)
    with directory.only_writer():
        if not resume:
            directory.create(config, setup.facts)
        view.say(f"run directory: {directory}")
        evaluation = train_sequentially(setup, data, directory, view.show, request)
    steps = directory.checkpoints.steps()
    finished = bool(steps) and steps[-1] >= setup.total_steps
    return RunOutcome(str(directory), steps[-1] if steps else 0, evaluation, stopped=not finished)


def _train_on_ray(
    config: RunConfig, directory: RunDirectory, view: ProgressView, resume: bool, request: StopRequest
) -> RunOutcome:
    from noprop_dist.engines.ray.cluster import is_remote
    from noprop_dist.engines.ray.driver import train_on_ray

    if not is_remote(config.engine.address):
        view.say("checking data and networks")
        setup, _ = check(config)  # a mistake is told before Ray takes its seconds to start
        if resume:
            _check_same_data(directory, setup)
        view.say(f"run directory: {directory}")
        view.say("starting Ray")
    return train_on_ray(config, str(directory), view.show, resume, request, view.say)


def _check_same_data(directory: RunDirectory, setup: RunSetup) -> None:
    """Check that the training samples are those that the run began with: `data.root` may change, they may not."""
    if setup.facts.sha256 != directory.facts().sha256:
        raise UserError(f"{directory}: was trained on other samples than data.root={setup.config.data.root} holds now")


def _results(evaluation: CheckpointEvaluation) -> Table:
    table = Table(title=f"after {evaluation.step} steps", title_justify="left")
    for column in ("split", "sampler", "samples", "accuracy", "nearest embedding"):
        table.add_column(column, justify="left" if column in ("split", "sampler") else "right")
    for split, result in evaluation.results:
        accuracies = (f"{share:.2%}" for share in (result.accuracy, result.nearest_embedding_accuracy))
        table.add_row(split, result.sampler, f"{result.samples:,}", *accuracies)
    return table
