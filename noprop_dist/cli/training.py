"""`train` and `resume`: a run with its progress on standard error, and its directory on standard output."""

import json
import signal
import sys
from collections.abc import Callable, Sequence

from rich.table import Table

from noprop_dist import api
from noprop_dist.api import Result, Watcher
from noprop_dist.api.stop_signals import stop_signals
from noprop_dist.api.types import CheckpointEvaluation, Span
from noprop_dist.cli.options import address_setting
from noprop_dist.cli.progress import progress_view
from noprop_dist.cli.terminal import FittingTable, LastingOutput, Terminal, shown
from noprop_dist.config.schema import RunConfig
from noprop_dist.errors import UserError


def start_run(config: RunConfig, run_dir: str | None, or_resume: bool = False, *, timeline: bool = False) -> None:
    """Train, and print the run directory."""
    if or_resume and run_dir is None:
        raise UserError("--or-resume: takes --run-dir, where the run may be already")
    where = api.default_run_dir(config) if run_dir is None else run_dir
    outcome = watched(where, lambda watcher: api.train(config, where, or_resume=or_resume, watcher=watcher))
    if timeline:
        Terminal(file=LastingOutput.of(sys.stderr)).print(_timeline(api.timeline(outcome)))
    print(shown(outcome.path))


def resume_run(
    run_dir: str, settings: Sequence[str], address: str | None, data_root: str | None = None, trust_code: bool = False
) -> None:
    """Continue a run, and print the run directory."""
    root = [] if data_root is None else [f"data.root={json.dumps(data_root)}"]
    changed = [*settings, *root, *address_setting(address)]
    outcome = watched(run_dir, lambda watcher: api.resume(run_dir, changed, watcher=watcher, trust_code=trust_code))
    print(shown(outcome.path))


def watched(run_dir: str, train: Callable[[Watcher], Result]) -> Result:
    """Train with progress and results on standard error; signals snapshot the run and end it.

    So does a pipe that nobody reads any more, as if SIGPIPE had come.

    Raises:
        SystemExit: the run was stopped by a signal, 128 + its number.
        TrainingError: it could not be trained to its end.
    """
    output = LastingOutput.of(sys.stderr)
    messages = Terminal(file=output)
    with progress_view(messages) as view, stop_signals(view.say) as request:

        def stopped() -> bool:
            if output.reader_is_gone and request.signal is None:
                request.signal = signal.SIGPIPE
            return request()

        try:
            outcome = train(Watcher(view.show, view.say, stopped, view.warn))
        except KeyboardInterrupt:
            messages.print(f"stopped; {api.resume_command(run_dir)} continues the run")
            raise SystemExit(128 + signal.SIGINT) from None
    was_stopped, evaluation = outcome.stopped, outcome.evaluation
    if evaluation is not None and not was_stopped:
        messages.print(_results(evaluation))
    if was_stopped and request.signal is not None:
        messages.print(f"stopped and saved; {api.resume_command(run_dir)} continues the run")
        raise SystemExit(128 + request.signal)
    return outcome


def _timeline(spans: Sequence[Span]) -> Table:
    table = FittingTable(title="seconds from the command to the first block-step", title_justify="left")
    for column in ("process", "phase", "from", "to"):
        table.add_column(column, justify="right" if column in ("from", "to") else "left")
    for span in spans:
        table.add_row(span.process, span.phase, f"{span.began:.2f}", f"{span.ended:.2f}")
    return table


def _results(evaluation: CheckpointEvaluation) -> Table:
    table = FittingTable(title=f"after {evaluation.step} steps", title_justify="left")
    for column in ("split", "sampler", "samples", "accuracy", "nearest embedding"):
        table.add_column(column, justify="left" if column in ("split", "sampler") else "right")
    for split, result in evaluation.results:
        accuracies = (f"{share:.2%}" for share in (result.accuracy, result.nearest_embedding_accuracy))
        table.add_row(split, result.sampler, f"{result.samples:,}", *accuracies)
    return table
