"""A coordinator without its cluster: takes over what a run directory holds, and follows the core until the run ends."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from noprop_dist.engines.command_runner import CommandRunner
from noprop_dist.engines.core.commands import End, Log
from noprop_dist.engines.core.events import Event, StopRequested
from noprop_dist.engines.core.placement import Placement, Resources, check_room, place_again, place_run
from noprop_dist.engines.core.run import Run, StartingPoint
from noprop_dist.errors import UserError
from noprop_dist.inference.score import scores_of
from noprop_dist.machine import HERE, Machine
from noprop_dist.records import Record, RunEnded, WorkerReady
from noprop_dist.run_plan import RunPlan
from noprop_dist.storage.checkpoint_writer import CheckpointWriter
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.fine_tuning import begin
from noprop_dist.training.run_log import RunLog
from noprop_dist.training.setup import RunSetup, go_on

POLL_SECONDS = 0.2
FEW_COLLECTIONS = 10_000, 10, 10
"""Thresholds of the three generations for `gc.set_threshold`; Python's own are (700, 10, 10)."""


@dataclass(frozen=True)
class TakenOver:
    """What earlier processes of a run left, and what writes from here on.

    Attributes:
        checkpoints: of the run.
        log: of the run.
        start: of the core.
        warnings: of what was damaged.
    """

    checkpoints: CheckpointWriter
    log: RunLog
    start: StartingPoint
    warnings: Sequence[str]


def goes_on(directory: RunDirectory, *, resume: bool, has_begun: bool) -> bool:
    """Return True if a coordinator goes on with the run in a directory; False if it begins one there.

    Args:
        directory: of the run.
        resume: go on, if a run lies there.
        has_begun: whether one must lie there, because an earlier process has begun it.

    Raises:
        StorageError: there is none, and must be one: it is not begun anew in its place.
    """
    holds_run = directory.holds_run
    if has_begun and not holds_run:
        raise directory.gone()
    return resume and holds_run


def enter(plan: RunPlan, directory: RunDirectory, *, resume: bool, machine: Machine = HERE) -> None:
    """Go on with the run in a directory, or begin one there.

    Args:
        plan: of the run.
        directory: of the run; this process is its only writer.
        resume: go on; see `goes_on`.
        machine: its clock.

    Raises:
        UserError: directory or source cannot be used, or hold another run; nothing was written.
        OSError: something cannot be read or written; a `resume` goes on.
    """
    if resume:
        go_on(plan, directory, machine)
    else:
        begin(plan, directory, machine)


def placement_of(plan: RunPlan, directory: RunDirectory, resources: Resources, *, resume: bool) -> Placement:
    """The placement of a run's blocks on the cluster as it is now.

    Args:
        plan: of the run.
        directory: of the run.
        resources: of the cluster.
        resume: go on; then the cluster may have lost machines, and the run waits for them.

    Raises:
        UserError: a run cannot begin on this cluster, or a snapshot is of another run.
    """
    if resume:
        return place_again(plan.config, resources, _trained_on(directory))
    placement = place_run(plan.config, resources)
    check_room(plan.config, placement, resources)
    return placement


def _trained_on(directory: RunDirectory) -> str | None:
    """The kind of device that a run was trained on so far; before its first snapshot, that of its newest worker."""
    device = directory.checkpoints.device()
    if device is not None:
        return device
    ready = [record for record in directory.metrics() if isinstance(record, WorkerReady)]
    workers = [record for record in ready if record.worker.startswith("block worker")]
    return workers[-1].device.partition(":")[0] if workers else None


def take_over(
    setup: RunSetup, directory: RunDirectory, *listeners: Callable[[Record], None], machine: Machine = HERE
) -> TakenOver:
    """Take over what earlier processes of a run left.

    Args:
        setup: of the run.
        directory: of the run; this process is its only writer.
        listeners: called with every record, those of earlier processes first.
        machine: its clock.
    """
    checkpoints = setup.checkpoint_writer(directory)
    snapshots, warnings = checkpoints.take_over()
    done = {stage: snapshots[stage].step if stage in snapshots else 0 for stage in setup.plan.stages}
    log = RunLog(directory, done, *listeners, machine=machine)
    complete, last = checkpoints.complete_steps, setup.plan.total_steps
    scores = scores_of(setup.plan, log.figures)
    unmeasured = [step for step in complete if not log.evaluated(step, final=step == last)]
    damaged = []
    if scores is not None and scores.decides:  # a run whose decision waits for one of these would never end
        damaged = [step for step in unmeasured if not _is_whole(directory, step)]
        warnings += [
            f"{directory}: the checkpoint of step {step} is damaged; training.early_stopping decides without it"
            for step in damaged
        ]
    to_evaluate = [step for step in unmeasured if step not in damaged] if setup.plan.evaluates else []
    stop_step = None if scores is None else scores.stop_step(complete)
    exchange, is_remote = setup.embedding_exchange(snapshots), directory.local_root is None
    start = StartingPoint(snapshots, to_evaluate, exchange, scores, stop_step, storage_may_be_slow=is_remote)
    return TakenOver(checkpoints, log, start, (*warnings, *log.warnings))


def _is_whole(directory: RunDirectory, step: int) -> bool:
    """Return True if all snapshots of a checkpoint can be read; one after the other, for they may be large."""
    try:
        for entry in directory.checkpoints.manifest(step).stages:
            directory.checkpoints.load(entry)
    except UserError:
        return False
    return True


def collect_seldom() -> None:
    """Let Python look for unreachable cycles of objects less often, and not among those that are here now.

    The state of a thousand stages and all that the libraries hold was looked through again and again: half of the
    time that the core takes for a round.
    """
    gc.freeze()
    gc.set_threshold(*FEW_COLLECTIONS)


def follow_core(
    run: Run,
    runner: CommandRunner,
    machine: Machine,
    stop_asked: Callable[[], bool],
    each_turn: Callable[[Run], None],
) -> End:
    """Carry out what the core says until it says that the run ends; an error that ends it before is written down.

    Args:
        run: the core.
        runner: carries out its commands.
        machine: its clock.
        stop_asked: asked in every turn whether the run is to end.
        each_turn: called before the core decides.
    """
    events: list[Event] = []
    try:
        while True:
            if stop_asked():
                events.append(StopRequested())
            each_turn(run)
            for command in run.decide(events, machine.monotonic()):
                if isinstance(command, End):
                    return command
                runner.carry_out(command)
            events = runner.events(POLL_SECONDS)
    except Exception as error:
        reached = min(stage_run.queue.steps_done for stage_run in run.stages.values())
        runner.carry_out(Log(RunEnded(step=reached, error=f"{type(error).__name__}: {error}")))
        raise
