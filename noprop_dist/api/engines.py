"""Runs a job on the engine that its configuration names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from noprop_dist.api.ahead import ray_ahead
from noprop_dist.api.watcher import Watcher
from noprop_dist.baseline.placement import Processes, place_baseline
from noprop_dist.config.schema import RunConfig
from noprop_dist.data.load import check_same_data
from noprop_dist.engines.core.placement import (
    Placement,
    Resources,
    check_room,
    least_workers,
    place_run,
    workers_to_begin,
)
from noprop_dist.errors import TrainingError, UserError, why
from noprop_dist.inference.score import last_step_of
from noprop_dist.phases import phase
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.trust import check_networks, remember
from noprop_dist.torch_device import choose_device
from noprop_dist.tracking.callback import Callback
from noprop_dist.training.fine_tuning import begin, read_source
from noprop_dist.training.messages import RunOutcome
from noprop_dist.training.setup import Given, check, go_on, prepare


@dataclass(frozen=True)
class Job:
    """What an engine is to do.

    Attributes:
        config: of the run.
        directory: of the run.
        given: what was handed over in Python.
        watcher: told how far the run is.
        callbacks: of the user's own.
        resume: go on with what lies there.
        named: whether the user named all that the configuration says in a `train`, which is then remembered.
        trusted: whether the user named the networks, or gave `--trust-code`.
    """

    config: RunConfig
    directory: RunDirectory
    given: Given
    watcher: Watcher
    callbacks: Sequence[Callback] = ()
    resume: bool = False
    named: bool = True
    trusted: bool = True


def run_job(job: Job) -> RunOutcome:
    """Train to the end, or until the watcher says stop.

    Raises:
        UserError: configuration, data or run directory cannot be used.
        TrainingError: a stage could not be trained to its end; names it and the cause.
    """
    return _train_sequentially(job) if job.config.engine.kind == "sequential" else _train_on_ray(job)


def _train_sequentially(job: Job) -> RunOutcome:
    from noprop_dist.engines.sequential import train_sequentially

    directory, watcher = job.directory, job.watcher
    check_networks(job.config, directory, job.trusted)
    setup, data = prepare(job.config, job.given)
    for note in data.notes:
        watcher.warn(note)
    choose_device(job.config.engine.device, "engine.device")
    with directory.only_writer(watcher.say):
        if job.resume:
            go_on(setup.plan, directory)
            _remember(job)
        else:
            begin(setup.plan, directory)
        watcher.say(f"run directory: {directory}")
        try:
            following = watcher.on_progress, watcher.stopped, job.callbacks
            evaluation = train_sequentially(setup, data, directory, *following)
        except UserError:
            raise
        except OSError as error:
            raise TrainingError(
                f"the run directory cannot be read or written: {why(error, with_file=True)}; "
                f"{directory.resume_command} continues the run"
            ) from error
    steps = directory.checkpoints.steps()
    finished = bool(steps) and steps[-1] >= last_step_of(setup.plan, directory)
    return RunOutcome(directory.link, steps[-1] if steps else 0, evaluation, stopped=not finished)


def _train_on_ray(job: Job) -> RunOutcome:
    with ray_ahead(job.config):
        return _train_on_its_ray(job)


def _train_on_its_ray(job: Job) -> RunOutcome:
    from noprop_dist.engines.ray.cluster import is_remote
    from noprop_dist.engines.ray.driver import train_on_ray

    config, watcher = job.config, job.watcher
    if not is_remote(config.engine.address):
        with phase("checks"):
            _check_here(job)
    return train_on_ray(
        config,
        job.directory.root,
        watcher.on_progress,
        job.resume,
        watcher.stopped,
        watcher.say,
        coordinator_class=_coordinator_of(config),
        trusted=job.trusted or not is_remote(config.engine.address),  # checked: the coordinator is on this machine
        given=job.given,
        callbacks=job.callbacks,
        # A new run that is prepared on this machine is noted where it begins.
        joined=lambda: _remember(job) if job.resume or is_remote(config.engine.address) else None,
    )


def _remember(job: Job) -> None:
    """Note what the user named, once it proved usable."""
    if job.named:
        remember(job.config)


def _check_here(job: Job) -> None:
    """Tell mistakes while Ray takes its seconds to start.

    Raises:
        UserError: configuration, data, networks or run directory cannot be used.
    """
    config, directory, watcher = job.config, job.directory, job.watcher
    check_networks(config, directory, job.trusted)
    watcher.say("checking data and networks")
    run_plan, _ = check(config, job.given)
    checked_placement(config)
    if job.resume:
        check_same_data(directory.facts(), run_plan.facts, str(directory), config.data)
    else:
        read_source(run_plan)
    with directory.only_writer(watcher.say):
        pass  # another process may write it, or nobody can
    watcher.say(f"run directory: {directory}")
    watcher.say("starting Ray")


def _coordinator_of(config: RunConfig) -> type[Any]:
    """The class of the run's coordinator. Ray Train is imported for the baseline alone.

    Raises:
        UserError: the baseline is asked for, and packages that Ray Train needs are missing.
    """
    if config.method != "backprop":
        from noprop_dist.engines.ray.coordinator import Coordinator

        return Coordinator
    try:
        from noprop_dist.baseline.coordinator import EndToEndCoordinator
    except ImportError as error:
        raise UserError(f"method=backprop: Ray Train cannot be imported: {error}") from error
    return EndToEndCoordinator


def checked_placement(config: RunConfig) -> Placement | Processes:
    """The placement of a run's blocks, or of the baseline's processes, on the machines that it would use.

    Raises:
        UserError: they have no room for it.
    """
    resources, may_grow = _resources(config)
    if config.method == "backprop":
        return place_baseline(config, resources, may_grow=may_grow)
    placement = place_run(config, resources)
    check_room(config, placement, resources)
    there = len(placement.workers)
    if workers_to_begin(config.engine, len(config.blocks.trained())) > there and not may_grow:
        least = least_workers(config.engine)
        raise UserError(f"engine.workers.min={least}: this machine has room for {there} worker(s)")
    return placement


def _resources(config: RunConfig) -> tuple[Resources, bool]:
    """What there is, and whether it may become more."""
    from noprop_dist.engines.ray.cluster import cluster_resources, is_connected, is_remote, ray_session, usable_cores

    if is_connected() or is_remote(config.engine.address):
        with ray_session(config.engine.address):
            return cluster_resources(config.engine.device), True
    cores = float(usable_cores())
    return Resources(cores, float(torch.cuda.device_count()), cores), False
