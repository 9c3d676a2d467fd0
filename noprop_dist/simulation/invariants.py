"""What must hold where nothing is under way: of one writer, after a stop, and at the end."""

from collections import Counter
from typing import TYPE_CHECKING

from noprop_dist.engines.core.commands import EVALUATOR
from noprop_dist.errors import UserError
from noprop_dist.records import (
    CheckpointCompleted,
    EmbeddingUpdated,
    Evaluated,
    News,
    RoundDone,
)
from noprop_dist.simulation.explained import DAMAGE, STORE, UNSURE
from noprop_dist.simulation.world import Process
from noprop_dist.stages import EMBEDDING, Stage
from noprop_dist.storage.checkpoint_writer import WAITING_KEPT
from noprop_dist.storage.checkpoints import MANIFEST
from noprop_dist.storage.manifest import SnapshotEntry
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import UnusableStorageError

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation

LEFTOVERS = 3
"""Steps of which the last coordinator may have left files that nobody needs."""


def check_one_writer(simulation: "Simulation", process: Process) -> None:
    """Whoever enters is the only process that writes; one that was stopped meanwhile counts once it goes on."""
    others = [each for each in simulation.writers if each.alive and not each.paused and each is not process]
    # The lease of an object store may have ended: there each write is looked at.
    if others and simulation.storage.kind == "disk":
        simulation.violate(f"{process.name} writes while {others[0].name} does")
    simulation.writers = {each: None for each in simulation.writers if each.alive}
    simulation.writers[process] = None


def check_write(simulation: "Simulation", process: Process, what: str) -> None:
    """Once another process has entered, a process that was stopped meanwhile writes no more than what it was at."""
    if process not in simulation.writers or process is next(reversed(simulation.writers)):
        return
    written = simulation.late_writes.setdefault(process, set())
    written.add(what)
    if len(written) > 1:
        simulation.violate(f"{process.name} writes on, though another process took over")


def check_stop(simulation: "Simulation") -> None:
    """After a stop every stage has a whole snapshot, and of a step to which all its records reach."""
    directory = RunDirectory(simulation.storage.undisturbed())
    if simulation.outcome.struck.keys() & (DAMAGE | {"power lost"}):
        return
    reached: Counter[Stage] = Counter()
    for record in directory.metrics():
        if isinstance(record, RoundDone):
            reached[record.stage] = record.step
    for name, steps in directory.checkpoints.saved_steps().items():
        found, warnings = directory.checkpoints.newest(name, steps)
        if found is None or warnings:
            simulation.violate(f"after a stop: {'; '.join(warnings) or f'{name} has no snapshot'}")
            return
        entry, snapshot = found
        simulation.check_snapshot(snapshot, "a snapshot after a stop")
        _check_kept_by_stop(simulation, entry)
        if reached[entry.stage] < entry.step and not simulation.plan.learns_embedding:
            simulation.violate(
                f"after a stop: {name} is saved at step {entry.step}, its records end at {reached[entry.stage]}"
            )


def _check_kept_by_stop(simulation: "Simulation", entry: SnapshotEntry) -> None:
    """What a coordinator had when it was stopped is written, and no step was thrown away."""
    coordinator = simulation.coordinator
    if coordinator is None or coordinator.run is None:
        return
    run = coordinator.run
    stage_run, saved = run.stages[entry.stage], run._parts.snapshots.saved_step(entry.stage)
    if entry.step < saved:
        simulation.violate(f"after a stop: {entry.name} is saved at step {entry.step}, its snapshot of {saved} is lost")
    if stage_run.waits and not simulation.plan.learns_embedding:
        simulation.bounds.check_kept(stage_run, saved, "of a stop")


def check_manifests(simulation: "Simulation") -> None:
    """Wherever there is a manifest, a whole checkpoint is."""
    if not simulation.outcome.struck.keys() & UNSURE:
        for step in RunDirectory(simulation.storage.undisturbed()).checkpoints.steps():
            check_manifest(simulation, step)


def check_manifest(simulation: "Simulation", step: int) -> None:
    """The manifest of a step, if there is one, names all stages, and each of their snapshots is there."""
    store = simulation.storage.undisturbed()
    if simulation.outcome.struck.keys() & UNSURE or not store.exists(f"checkpoints/step-{step:08d}/{MANIFEST}"):
        return
    try:
        snapshots = RunDirectory(store).checkpoints.load_all(step)
    except UserError as error:
        simulation.violate(f"a checkpoint is not whole: {error}")
        return
    missing = [stage.name for stage in simulation.plan.stages if stage not in snapshots]
    if missing:
        simulation.violate(f"the manifest of step {step} lacks {missing[0]}")


def check_not_measured(simulation: "Simulation", evaluator: Process, error: UserError) -> None:
    """What the evaluator of the present coordinator is to measure is there."""
    coordinator = simulation.coordinator
    if coordinator is None or not coordinator.process.alive or coordinator.run is None:
        return
    number = coordinator.run._parts.pool.slots[EVALUATOR].incarnation
    if evaluator.name != f"{EVALUATOR.name}#{number} of {coordinator.process.name}":
        return
    struck = simulation.outcome.struck.keys()
    if isinstance(error, UnusableStorageError) and struck & STORE:
        return  # the store failed while it was read; the evaluator is asked again
    if not struck & UNSURE and coordinator.run._stopped_at is None:
        simulation.violate(f"a checkpoint that is to be measured: {error}")


def check_end(simulation: "Simulation") -> None:
    """Weights, counted steps, figures and files of a finished run."""
    end, plan = simulation.end, simulation.plan
    assert end is not None
    # After these a checkpoint may not be whole.
    left_out = simulation.outcome.struck.keys() & (STORE | UNSURE | {"NaN in one block"})
    late = simulation.last_step < end.step and bool(left_out)
    if end.error is not None or end.stopped or (end.step != simulation.last_step and not late):
        simulation.violate(f"the run ended with {end}, not at step {simulation.last_step}")
        return
    directory = RunDirectory(simulation.storage.undisturbed())
    try:
        manifest = directory.checkpoints.manifest()
    except UserError as error:
        last = directory.checkpoints.steps()[-1:]
        if not last or not simulation.was_damaged(last[0], "manifest"):  # from outside, once the run had ended
            simulation.violate(f"the last checkpoint: {error}")
        return
    if {entry.stage: entry.sha256 for entry in manifest.stages} != simulation.expected.fingerprints(end.step):
        simulation.violate(f"the checkpoint of step {manifest.step} has other bits than the undisturbed run")
    for entry in manifest.stages:
        try:
            directory.checkpoints.load(entry)
        except UserError as error:
            if not simulation.was_damaged(entry.step, entry.name):
                simulation.violate(f"the last checkpoint: {error}")
    _check_counts(simulation, directory, end.step)
    _check_files(simulation, directory)
    was_stopped = simulation.driver is not None and simulation.driver.stop  # just when there was nothing left to train
    if plan.evaluates and not was_stopped:
        _check_measured(simulation, directory, end.step)


def _check_counts(simulation: "Simulation", directory: RunDirectory, total: int) -> None:
    """Every step is written down once. Where records were damaged from outside, none is there twice."""
    done: dict[Stage, list[tuple[int, int]]] = {stage: [] for stage in simulation.plan.stages}
    for record in directory.metrics_from()[0]:
        if isinstance(record, RoundDone):
            done[record.stage].append((record.first_step, record.step))
        elif isinstance(record, EmbeddingUpdated):
            done[EMBEDDING].append((record.first_step, record.step))
    damaged = any(kind.startswith("metrics.jsonl") or kind == "power lost" for kind in simulation.outcome.struck)
    for stage, rounds in done.items():
        reached = 0
        for first, last in rounds:
            if first < reached or (first > reached and not damaged):
                simulation.violate(f"{stage.name}: a round from step {first} follows one that ends at {reached}")
                return
            reached = last
        if not (reached == total or (reached > total < simulation.plan.total_steps)) and not damaged:
            simulation.violate(f"{stage.name}: {reached} of {total} steps are written down")


def _check_measured(simulation: "Simulation", directory: RunDirectory, last: int) -> None:
    """Every checkpoint is measured once, unless people were told that it is left out; a stop waits for no measuring."""
    if simulation.outcome.struck.keys() & (UNSURE | STORE | {"stop asked for"}):
        return
    records = directory.metrics_from()[0]
    told = "".join(record.text for record in records if isinstance(record, News) and "was not measured" in record.text)
    measured = Counter(record.step for record in records if isinstance(record, Evaluated))
    for step in {record.step for record in records if isinstance(record, CheckpointCompleted)}:
        if measured[step] > 1 or (measured[step] == 0 and step <= last and f"of step {step} " not in told):
            simulation.violate(f"the checkpoint of step {step} was measured {measured[step]} times")


def _check_files(simulation: "Simulation", directory: RunDirectory) -> None:
    """What is kept is bounded."""
    keep = simulation.plan.config.checkpoint.num_to_keep
    most = keep + WAITING_KEPT + len(simulation.plan.checkpoint_steps).bit_length() + 4
    folders = len(directory.checkpoints.steps_before(10**14))
    if folders > most + LEFTOVERS:
        simulation.violate(f"{folders} steps are kept, at most {most} may be")
    for name, steps in directory.checkpoints.saved_steps().items():
        if len(steps) > most:
            simulation.violate(f"{len(steps)} snapshots of {name} are kept, at most {most} may be")
