"""Train a network, and go on with a run."""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from noprop_dist.api.engines import Job, run_job
from noprop_dist.api.handed_over import handed_over, handed_over_again, is_own_class, names_given_network
from noprop_dist.api.result import NamedRun, Result, run_directory
from noprop_dist.api.stop_signals import interrupts, stop_signals
from noprop_dist.api.watcher import Watcher
from noprop_dist.config.arguments import checked
from noprop_dist.config.bits import as_begun, changed_bits, continued, setting_at, shown
from noprop_dist.config.effect import without_effect
from noprop_dist.config.layers import idle_settings
from noprop_dist.config.schema import RunConfig
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.files import local_path
from noprop_dist.inference.load import changed_networks
from noprop_dist.inference.score import last_step_of
from noprop_dist.models.custom import NetworkFactory
from noprop_dist.records import Evaluated
from noprop_dist.run_plan import RunPlan
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.trust import check_networks, check_settings
from noprop_dist.torch_state import as_in_a_new_process
from noprop_dist.tracking.callback import Callback
from noprop_dist.training.setup import Given, check_length


def default_run_dir(config: RunConfig) -> str:
    """A new folder under runs/, named after the data and the time; two that start in one second do not meet."""
    return f"runs/{config.data.name}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


@checked
@as_in_a_new_process()
def train(
    config: RunConfig,
    run_dir: str | Path | None = None,
    *,
    data: Any = None,
    network: NetworkFactory | None = None,
    address: str | None = None,
    callbacks: Sequence[Callback] | None = (),
    or_resume: bool = False,
    watcher: Watcher | None = None,
) -> Result:
    """Train a network in a new run directory.

    Args:
        config: of the run, such as `RunConfig.preset("digits", blocks={"count": 10})`.
        run_dir: where, a path or a URI; `default_run_dir` without it.
        data: in place of the configuration's: the name of a data set; the path of an image folder, a .npz file or a
            packed folder; a pair (x, y) of arrays; a mapping with x_train, y_train and perhaps x_val, y_val, x_test,
            y_test; a torch or Hugging Face Dataset; or a pair (train, test) or a mapping from train, val and test to
            such.
        network: of every block, in place of the configuration's: a class or function, called as
            network(input_shape=…, classes=…, embedding_dim=…), that returns a torch.nn.Module (x, z) → logits. One that
            no other process can import, of a notebook for example, is sent to the workers, and has to be handed over
            again to `resume` and `load`.
        address: of a running Ray cluster.
        callbacks: told of every record of the run, where it lives; see `Callback`.
        or_resume: go on with the run that `run_dir` holds already, if it is the same apart from settings that change
            no bits.
        watcher: told how far the run is; lines on standard error without one.

    Raises:
        UserError: configuration, data or run directory cannot be used; nothing was written.
        TrainingError: a stage could not be trained to its end; names it and the cause.
        KeyboardInterrupt: after Ctrl-C in the main thread, once every stage is snapshotted; `resume` goes on. A second
            Ctrl-C ends at once.
    """
    watcher = watcher or Watcher.on_stderr()
    config, given = handed_over(config, data, network)
    config = _located(_at(config, address, watcher))
    directory = RunDirectory(default_run_dir(config) if run_dir is None else str(run_dir))
    if or_resume and directory.holds_run:
        check_same_run(directory, config)
        return _go_on(Job(config, directory, given, watcher, callbacks or (), resume=True))
    directory.check_unused()
    _say_what_is_needed_again(config, given, watcher)
    _run(Job(config, directory, given, watcher, callbacks or ()))
    return _result(directory)


@checked
@as_in_a_new_process()
def resume(
    run: NamedRun,
    settings: Sequence[str] = (),
    *,
    data: Any = None,
    network: NetworkFactory | None = None,
    address: str | None = None,
    callbacks: Sequence[Callback] | None = (),
    watcher: Watcher | None = None,
    trust_code: bool = False,
) -> Result:
    """Continue a run from the newest snapshot of every stage.

    Args:
        run: a run directory (a path or a URI), or a `Result`.
        settings: `key=value`; what changes no bits (`data.root` for data that has moved), how single stages are
            trained from here on, and how long the run is (`training.epochs=20`), finished or not.
        data: what was handed over to `train`, if it was; of a run that names its data, None.
        network: likewise; or the class that the run names, which is trusted then.
        address: of a running Ray cluster.
        callbacks: as of `train`.
        watcher: told how far the run is; lines on standard error without one.
        trust_code: see `load`; holds for the cluster that the run names, too.

    Raises:
        UserError: there is no run, a setting may not change, or data or snapshots are of another run.
        TrainingError: as of `train`.
        KeyboardInterrupt: likewise.
    """
    directory, watcher = run_directory(run), watcher or Watcher.on_stderr()
    config = _located(_at(continued(directory.config(), settings), address, watcher))
    given = handed_over_again(config, data, network)
    trusted = trust_code or is_own_class(config, network)
    if not trust_code:
        check_settings(config, directory, [*settings, *(["engine.address=…"] if address else [])])
    for line in idle_settings(config, settings):
        watcher.warn(line)
    return _go_on(Job(config, directory, given, watcher, callbacks or (), resume=True, named=False, trusted=trusted))


def _at(config: RunConfig, address: str | None, watcher: Watcher) -> RunConfig:
    if address is None:
        return config
    for line in without_effect(config, {"engine": {"address": address}}):
        watcher.warn(line)
    return config.model_copy(update={"engine": config.engine.model_copy(update={"address": address})})


def _located(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths: a run is looked at from other folders, too."""
    root, source = config.data.root, config.training.init_from
    if root is not None:
        data = config.data.model_copy(update={"root": str(local_path(root).absolute())})
        config = config.model_copy(update={"data": data})
    if source is not None and "://" not in source:
        training = config.training.model_copy(update={"init_from": str(local_path(source).absolute())})
        config = config.model_copy(update={"training": training})
    return config


def _say_what_is_needed_again(config: RunConfig, given: Given, watcher: Watcher) -> None:
    needed = ["data=…"] * (given.data is not None) + ["network=…"] * names_given_network(config)
    if needed:
        watcher.say(f"to resume or evaluate this run, hand over again {' and '.join(needed)}: it lies in no file")


def check_same_run(directory: RunDirectory, config: RunConfig) -> None:
    """Check that a run directory holds a run of this configuration, apart from settings that change no bits.

    Raises:
        UserError: it holds another run; names the first difference.
    """
    before = directory.config()
    changed = changed_bits(before, as_begun(config, before))
    if changed:
        key = changed[0]
        old, new = (shown(setting_at(each, key)) for each in (before, config))
        raise UserError(f"{directory}: holds a run whose {key} is {old}, not {new}; give another folder")


def _go_on(job: Job) -> Result:
    directory = job.directory
    directory.checkpoints.check_run()
    run_plan = RunPlan(job.config, directory.facts(), given_network=job.given.network)
    other_length = check_length(run_plan, directory)
    if other_length is not None:
        job.watcher.say(other_length)
    elif _is_finished(directory, run_plan):
        job.watcher.say("the run is finished: all steps are done")
        _warn_of_changed_networks(job, run_plan)
        return _result(directory)
    _run(job)
    return _result(directory)


def _run(job: Job) -> None:
    """Run a job. Ctrl-C stops it as `watcher.stopped` does, and is raised once it has ended.

    Raises:
        KeyboardInterrupt: as described; says how to go on.
    """
    with stop_signals(job.watcher.say, interrupts()) as request:
        watcher = replace(job.watcher, stopped=lambda: request() or job.watcher.stopped())
        try:
            outcome = run_job(replace(job, watcher=watcher))
        except (UserError, TrainingError) as error:
            if request():
                raise KeyboardInterrupt(f"{error}") from error
            raise
    if request():
        link = job.directory.link
        told = f"stopped and saved; resume({link!r}) continues the run" if outcome.stopped else f"{link} is finished"
        job.watcher.say(told)
        raise KeyboardInterrupt(told)


def _warn_of_changed_networks(job: Job, run_plan: RunPlan) -> None:
    """Nothing is computed here, so networks that may not or cannot be imported are no reason to refuse anything."""
    with suppress(UserError):
        check_networks(job.config, job.directory, job.trusted)
        for line in changed_networks(job.directory, run_plan, job.directory.checkpoints.steps()[-1]):
            job.watcher.warn(line)


def _result(directory: RunDirectory) -> Result:
    return Result(directory.link, directory.root)


def _is_finished(directory: RunDirectory, run_plan: RunPlan) -> bool:
    try:
        step = directory.checkpoints.manifest().step
        directory.checkpoints.load_all(step)
    except UserError:
        return False  # it is missing or damaged: both engines make it anew from what is left
    last = last_step_of(run_plan, directory)
    if last < run_plan.total_steps:  # it ended early, and has deleted what came after
        return step == last and not directory.checkpoints.steps_after(last)
    finals = [record.step for record in directory.metrics() if isinstance(record, Evaluated) and record.final]
    return step >= run_plan.total_steps and (run_plan.total_steps in finals or not run_plan.evaluates)
