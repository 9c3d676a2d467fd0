"""What one can do with runs: train, resume, inspect, evaluate, merge. The command line is built on these functions.

A run lives in a run directory: a local path, or a URI such as s3://bucket/run. Where that cannot be read or written,
every function raises an OSError whose text is one line that names the file and the reason.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from noprop_dist.baseline.network import assemble_end_to_end
from noprop_dist.config.bits import changed_bits, continued, setting_at, shown
from noprop_dist.config.effect import without_effect
from noprop_dist.config.layers import idle_settings
from noprop_dist.config.schema import DataSettings, RunConfig
from noprop_dist.data.dataset import DataFacts, DataSet
from noprop_dist.data.inputs import Keep, MappedInputs
from noprop_dist.data.load import check_same_data, load_again, load_data
from noprop_dist.data.packed import pack as pack_data
from noprop_dist.data.unlabelled import FewLines, find_samples
from noprop_dist.engines.core.drawing import Drawing, who_draws
from noprop_dist.engines.core.placement import Placement, Resources, check_room, place_run
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.files import have_a_home, local_path
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.inference.evaluation import (
    BlockEvaluation,
    Evaluation,
    ObjectiveTerms,
    Passes,
    measure,
)
from noprop_dist.inference.load import TrainedRun, assemble_network
from noprop_dist.inference.network import Prediction, Sampler
from noprop_dist.inference.predictions import Written, answers, write_predictions
from noprop_dist.inference.predictions_file import PredictionsFile
from noprop_dist.plan import RunPlan
from noprop_dist.records import Evaluated, is_damaged
from noprop_dist.report.summary import LatestMetrics, latest_metrics
from noprop_dist.stages import NETWORK, Stage
from noprop_dist.storage.checkpoints import Checkpoints, Manifest, SnapshotEntry
from noprop_dist.storage.identity import OtherRunError, other_sources
from noprop_dist.storage.merge import merge_runs
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.trust import check_networks, check_settings, own_networks, remember
from noprop_dist.training.device import choose_device, keep_freed_memory
from noprop_dist.training.footprint import Footprint, block_footprints
from noprop_dist.training.messages import RunOutcome
from noprop_dist.training.progress import RunProgress
from noprop_dist.training.setup import check, go_on, prepare

if TYPE_CHECKING:
    from noprop_dist.report.run_report import WrittenReport


def _silent(_: Any) -> None:
    return None


@dataclass(frozen=True)
class Watcher:
    """Callbacks of whoever watches a run while it trains.

    Attributes:
        on_progress: told how far the run is, about twice a second.
        say: told lines about what goes on around the run.
        stopped: asked about twice a second; once it says yes, every stage is snapshotted and the run ends.
        warn: told what the user should know and may not expect, such as what was left out of the data.
    """

    on_progress: Callable[[RunProgress], None] = _silent
    say: Callable[[str], None] = _silent
    stopped: Callable[[], bool] = field(default=lambda: False)
    warn: Callable[[str], None] = _silent


def default_run_dir(config: RunConfig) -> str:
    """A new folder under runs/, named after the data and the time; two that start in one second do not meet."""
    return f"runs/{config.data.name}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def train(
    config: RunConfig, run_dir: str | None = None, *, or_resume: bool = False, watcher: Watcher | None = None
) -> RunOutcome:
    """Train a network in a new run directory.

    Args:
        config: of the run.
        run_dir: where; `default_run_dir` without it.
        or_resume: go on with the run that `run_dir` holds already, if it is the same apart from settings that change
            no bits.
        watcher: told how far the run is.

    Raises:
        UserError: configuration, data or run directory cannot be used; nothing was written.
        TrainingError: a stage could not be trained to its end; names it and the cause.
    """
    directory, config = RunDirectory(default_run_dir(config) if run_dir is None else run_dir), _located(config)
    if or_resume and directory.holds_run:
        check_same_run(directory, config)
        remember(config)
        return _continue(config, directory, watcher or Watcher())
    directory.check_unused()
    remember(config)
    return _train(config, directory, resume=False, watcher=watcher or Watcher())


def resume(
    run_dir: str, settings: Sequence[str] = (), *, watcher: Watcher | None = None, trust_code: bool = False
) -> RunOutcome:
    """Continue a run from the newest snapshot of every stage.

    Args:
        run_dir: that holds the run.
        settings: `key=value`; what changes no bits (`data.root` for data that has moved), and how single stages are
            trained from here on.
        watcher: told how far the run is.
        trust_code: see `load`; holds for the cluster that the run names, too.

    Raises:
        UserError: there is no run, a setting may not change, or data or snapshots are of another run.
        TrainingError: as of `train`.
    """
    directory, watcher = RunDirectory(run_dir), watcher or Watcher()
    config = _located(continued(directory.config(), settings))
    if not trust_code:
        check_settings(config, directory, settings)
    for line in idle_settings(config, settings):
        watcher.warn(line)
    return _continue(config, directory, watcher, trust_code)


def _located(config: RunConfig) -> RunConfig:
    """The configuration with an absolute `data.root`: a run is looked at from other folders, too."""
    root = config.data.root
    if root is None:
        return config
    data = config.data.model_copy(update={"root": str(local_path(root).absolute())})
    return config.model_copy(update={"data": data})


def check_same_run(directory: RunDirectory, config: RunConfig) -> None:
    """Check that a run directory holds a run of this configuration, apart from settings that change no bits.

    Raises:
        UserError: it holds another run; names the first difference.
    """
    before = directory.config()
    changed = changed_bits(before, config)
    if changed:
        key = changed[0]
        old, new = (shown(setting_at(each, key)) for each in (before, config))
        raise UserError(f"{directory}: holds a run whose {key} is {old}, not {new}; give another folder")


@dataclass(frozen=True)
class PlannedRun:
    """What a run would do and need.

    Attributes:
        plan: of the run.
        placement: of its blocks; None for the sequential engine.
        drawing: who draws z; None for the sequential engine.
        footprints: memory of each block.
        data_bytes: of the training samples.
        data_is_mapped: whether they are mapped from files, and not put into the object store.
        notes: of how the data set was read.
    """

    plan: RunPlan
    placement: Placement | None
    drawing: Drawing | None
    footprints: dict[int, Footprint]
    data_bytes: int
    data_is_mapped: bool
    notes: tuple[str, ...]


def plan(config: RunConfig, run_dir: str | None = None) -> PlannedRun:
    """Check that configuration, data, networks and a new run directory can be used; start nothing.

    Raises:
        UserError: they cannot.
    """
    if run_dir is not None:
        RunDirectory(run_dir).check_unused()
    run_plan, data = check(config)
    footprints = block_footprints(run_plan)
    placement = drawing = None
    if config.engine.kind == "ray":
        placement = _checked_placement(config)
        run_plan = replace(run_plan, on_gpu=placement.on_gpu)
        drawing = who_draws(run_plan, placement)
    inputs = data.train.inputs
    is_mapped = isinstance(inputs, MappedInputs)
    return PlannedRun(run_plan, placement, drawing, footprints, inputs.nbytes, is_mapped, data.notes)


def _checked_placement(config: RunConfig) -> Placement:
    """The placement of a run's blocks on the machines that it would use.

    Raises:
        UserError: they have no room for it.
    """
    resources = _resources(config)
    placement = place_run(config, resources)
    if config.method == "backprop":
        from noprop_dist.baseline.coordinator import check_machine, processes
        from noprop_dist.engines.ray.cluster import is_remote

        (processes if is_remote(config.engine.address) else check_machine)(config, resources)
    else:
        check_room(config, placement, resources)
    return placement


def _resources(config: RunConfig) -> Resources:
    from noprop_dist.engines.ray.cluster import cluster_resources, is_remote, ray_session, usable_cores

    if is_remote(config.engine.address):
        with ray_session(config.engine.address):
            return cluster_resources()
    cores = float(usable_cores())
    return Resources(cores, float(torch.cuda.device_count()), cores)


def resume_command(run_dir: str) -> str:
    """The command that continues a run, in backquotes and without any secret."""
    return RunDirectory(run_dir).resume_command


def load(run_dir: str, device: str = "auto", *, trust_code: bool = False) -> TrainedRun:
    """Load the network of a run's last undamaged checkpoint.

    Args:
        run_dir: that holds the run.
        device: "cpu", "cuda", or "auto": a GPU if there is one, else all cores.
        trust_code: import networks that the run names by import path, though no `train` on this machine named them.

    Raises:
        UserError: there is no checkpoint, or a block is missing (the run trained `blocks.only` some); or a network
            is neither known nor trusted, or lies in the run directory.
    """
    directory = RunDirectory(run_dir)
    run_plan = RunPlan(directory.config(), directory.facts())
    check_networks(run_plan.config, directory, trust_code)
    torch.set_num_threads(os.cpu_count() or 1)
    snapshots, warnings = directory.checkpoints.load_last_whole()
    chosen = choose_device(device)
    if chosen.type == "cpu":
        keep_freed_memory(of_any_size=True)
    if run_plan.end_to_end:
        network = assemble_end_to_end(run_plan, snapshots[NETWORK], chosen)
    else:
        network = assemble_network(run_plan, snapshots, chosen)
    step = next(iter(snapshots.values())).step
    told = [f"{each}; the one before it is used" for each in warnings]
    for entry in directory.checkpoints.manifest(step).stages:
        told += other_sources(str(directory), entry.trained_with, run_plan.sources(entry.stage))
    return TrainedRun(directory, run_plan, network, step, tuple(dict.fromkeys(told)))


@dataclass(frozen=True)
class RunEvaluation:
    """Figures of a trained run on its test set.

    Attributes:
        accuracy: of the whole network.
        terms: of Eq. 8; None for the baseline, which has no such objective.
        per_block: each block along the chain and alone; empty unless `per_block` was given.
        step: of the checkpoint that was measured.
        notes: of what was asked for and does nothing.
    """

    accuracy: Evaluation
    terms: ObjectiveTerms | None
    per_block: tuple[BlockEvaluation, ...]
    step: int
    notes: tuple[str, ...] = ()


def evaluate(
    run: TrainedRun,
    sampler: Sampler = "mean",
    passes: int = 1,
    *,
    terms: bool = True,
    per_block: bool = False,
    data_root: str | None = None,
) -> RunEvaluation:
    """Measure a trained run on its whole test set.

    Args:
        run: from `load`.
        sampler: `stochastic` (Eq. 3) or `mean` (no noise on the way).
        passes: of the reverse process, averaged.
        terms: whether to measure the terms of Eq. 8, too.
        per_block: whether to measure each block, too.
        data_root: where the data lies now, if it has moved.

    Raises:
        UserError: the data set cannot be read, or is not the one that the run was trained on.
    """
    config = run.plan.config
    test = load_again(config.data, run.plan.facts, str(run.directory), data_root).held_out.test
    with _tells_failing_networks(run):
        eta = config.objective.eta if terms and not run.plan.end_to_end else None
        parts = sampler if per_block else None
        measured = measure(run.network, test, [Passes(sampler, passes)], eta=eta, blocks=parts)
    (accuracy,), idle = measured.accuracies, _idle_root(config, data_root)
    return RunEvaluation(accuracy, measured.terms, measured.per_block, run.step, idle)


@contextmanager
def _tells_failing_networks(run: TrainedRun) -> Iterator[None]:
    """Tell in one sentence that a network of the user's own fails. Where ours do, the traceback says more.

    Raises:
        UserError: as described.
    """
    try:
        yield
    except (UserError, TrainingError):
        raise
    except (Exception, SystemExit) as error:
        named = ", ".join(network.path for network in own_networks(run.plan.config))
        if not named:
            raise
        raise UserError(f"{run.directory}: its network {named} fails: {type(error).__name__}: {error}") from error


def _idle_root(config: RunConfig, data_root: str | None) -> tuple[str, ...]:
    return () if data_root is None else tuple(without_effect(config, {"data": {"root": data_root}}))


def predict(
    run: TrainedRun,
    images: Sequence[Path],
    sampler: Sampler = "mean",
    passes: int = 1,
    *,
    warn: Callable[[str], None] = _silent,
) -> list[Prediction]:
    """Classify samples, each by itself.

    Args:
        run: from `load`.
        images: image files in any format that Pillow reads, resized to what the network takes, and folders of them; or
            one .npz file or packed data set, see `find_samples`.
        sampler: `stochastic` or `mean`.
        passes: of the reverse process, averaged.
        warn: told what is left out, or not looked at.

    Raises:
        UserError: the run was trained on other samples, or a file is no image.
    """
    told = FewLines(warn)
    source = find_samples(images, run.plan.facts, str(run.directory), told)
    found: list[Prediction] = []
    with _tells_failing_networks(run):
        for each in answers(run.network, source, sampler, passes, batch=1):
            for error in each.unreadable.values():
                raise error
            found.append(Prediction.of(each.probabilities[0], run.network, source.name(each.rows.start)))
    told.end()
    return found


def predict_into(
    run: TrainedRun,
    images: Sequence[Path],
    out: Path,
    sampler: Sampler = "mean",
    passes: int = 1,
    *,
    warn: Callable[[str], None] = _silent,
    on_progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Written:
    """Classify samples, many at a time, into a CSV or Parquet file of classes and all probabilities.

    Images that cannot be read are told and left out. Where an earlier call was interrupted, it goes on from there.

    Args:
        run: as of `predict`.
        images: likewise.
        out: ends in .csv or .parquet; appears once it is whole.
        sampler: as of `predict`.
        passes: likewise.
        warn: likewise.
        on_progress: told (samples done, samples in all).

    Raises:
        UserError: as of `predict`, or `out` cannot be written or holds other predictions.
    """
    told = FewLines(warn)
    source = find_samples(images, run.plan.facts, str(run.directory), told)
    of = {"network": run.fingerprint(), "step": run.step, "sampler": sampler, "number of passes": passes}
    of |= {"number of images": len(source), "fingerprint of the images": source.identity()}
    file = PredictionsFile(out, of, run.plan.facts.class_names)
    with _tells_failing_networks(run):
        written = write_predictions(run.network, source, file, sampler, passes, told, on_progress)
    told.end()
    return written


@dataclass(frozen=True)
class MergedRun:
    """Where a merged run lies, and warnings about its parts."""

    directory: str
    warnings: tuple[str, ...]


def merge(out: str, runs: Sequence[str], say: Callable[[str], None] = _silent) -> MergedRun:
    """Assemble one network from blocks that were trained in different runs.

    Args:
        out: the new run directory.
        runs: that each trained some of the blocks (`blocks.only`).
        say: told what is waited for.

    Raises:
        UserError: the runs do not fit each other, a block is missing, or `out` holds a run.
    """
    directory = RunDirectory(out)
    warnings = merge_runs(directory, [RunDirectory(run) for run in runs], say)
    return MergedRun(directory.link, tuple(warnings))


@dataclass(frozen=True)
class RunContents:
    """What a run directory holds.

    Attributes:
        config: of the run.
        facts: of its data.
        manifest: of its last checkpoint; None where none is whole yet.
        newest: every stage's newest undamaged snapshot, from which `resume` continues; None where it has none.
        latest: figures.
        warnings: what is damaged, or does not belong together.
    """

    config: RunConfig
    facts: DataFacts
    manifest: Manifest | None
    newest: dict[Stage, SnapshotEntry | None]
    latest: LatestMetrics
    warnings: tuple[str, ...]


def inspect(run_dir: str) -> RunContents:
    """Read a run's configuration, its last checkpoint's manifest, its newest snapshots, and its latest figures.

    Raises:
        UserError: there is no run, or what describes it is damaged.
    """
    directory = RunDirectory(run_dir)
    config, checkpoints = directory.config(), directory.checkpoints
    manifest = checkpoints.manifest(of_any_run=True) if checkpoints.steps() else None
    run_plan = RunPlan(config, directory.facts())
    records, warnings = directory.metrics(), list[str]()
    if damaged := sum(map(is_damaged, records)):
        warnings.append(f"{directory}: {damaged} line(s) of metrics.jsonl are damaged; a resume sets them aside")
    try:
        checkpoints.check_run()
    except OtherRunError as error:
        warnings.append(str(error))
    for entry in () if manifest is None else manifest.stages:
        try:
            checkpoints.load(entry)
        except UserError as error:
            warnings.append(str(error))
    newest = _newest_entries(run_plan, checkpoints, manifest, warnings)
    return RunContents(
        config, run_plan.facts, manifest, newest, latest_metrics(records), tuple(dict.fromkeys(warnings))
    )


def _newest_entries(
    run_plan: RunPlan, checkpoints: Checkpoints, manifest: Manifest | None, warnings: list[str]
) -> dict[Stage, SnapshotEntry | None]:
    """Every stage's newest undamaged snapshot; where W_embed is learned, of the steps that all stages have."""
    newest: dict[Stage, SnapshotEntry | None] = dict.fromkeys(run_plan.stages)
    newest |= {} if manifest is None else {entry.stage: entry for entry in manifest.stages}
    names = {stage: stage.file(run_plan.config.blocks.count) for stage in newest}
    saved, after = checkpoints.saved_steps(), -1 if manifest is None else manifest.step
    steps = {stage: [step for step in saved.get(name, []) if step > after] for stage, name in names.items()}
    if run_plan.learns_embedding:
        common = set.intersection(*map(set, steps.values()))
        steps = {stage: sorted(common) for stage in steps}
    for stage, name in names.items():
        try:
            found, damaged = checkpoints.newest(name, steps[stage])
        except OtherRunError as error:
            found, damaged = None, [str(error)]
        warnings += damaged
        newest[stage] = newest[stage] if found is None else found[0]
    return newest


def report(run_dir: str, data_root: str | None = None, *, trust_code: bool = False) -> "WrittenReport":
    """Write report.html and plots/*.png into a run directory.

    Args:
        run_dir: that holds the run.
        data_root: where the data lies now, if it has moved.
        trust_code: see `load`.

    Raises:
        UserError: there is no run, or no checkpoint yet; or the data is not at `data_root`; or as of `load`.
    """
    from noprop_dist.report.run_report import write_report  # with matplotlib, which no other command waits for

    directory = RunDirectory(run_dir)
    config = directory.config()
    directory.checkpoints.manifest()
    if config.blocks.only is None:
        run = load(run_dir, trust_code=trust_code)
        with _tells_failing_networks(run):
            written = write_report(directory, run, data_root)
        return replace(written, notes=(*run.warnings, *_idle_root(config, data_root)))
    unread = f"data.root={data_root}: no effect with blocks.only: a report on single blocks reads no data"
    return replace(write_report(directory, None), notes=() if data_root is None else (unread,))


def pack(
    out: str,
    settings: DataSettings,
    on_progress: Callable[[str, int, int], None],
    warn: Callable[[str], None] = _silent,
) -> DataFacts:
    """Pack a data set into files that are mapped and not read, for data that is larger than memory.

    Args:
        out: a new folder.
        settings: of the data set.
        on_progress: told (split, samples done, samples in all).
        warn: told how the data set was read.

    Raises:
        UserError: it is packed already, cannot be read, or the folder cannot be written.
    """
    if settings.name == "packed":
        raise UserError("data.name=packed: is packed already; name the data set that is to be packed")

    def load_told(keep: Keep) -> DataSet:
        data = load_data(settings, keep)
        for note in data.notes:
            warn(note)
        return data

    return pack_data(load_told, local_path(out), on_progress)


def _continue(config: RunConfig, directory: RunDirectory, watcher: Watcher, trusted: bool = True) -> RunOutcome:
    directory.checkpoints.check_run()
    run_plan = RunPlan(config, directory.facts())
    if _is_finished(directory, run_plan):
        watcher.say("the run is finished: all steps are done")
        evaluation = CheckpointEvaluation.last_of(directory.metrics())
        return RunOutcome(directory.link, run_plan.total_steps, evaluation)
    outcome = _train(config, directory, resume=True, watcher=watcher, trusted=trusted)
    if outcome.evaluation is None and not outcome.stopped:  # an earlier process measured the last checkpoint
        return replace(outcome, evaluation=CheckpointEvaluation.last_of(directory.metrics()))
    return outcome


def _is_finished(directory: RunDirectory, run_plan: RunPlan) -> bool:
    try:
        step = directory.checkpoints.manifest().step
        directory.checkpoints.load_all(step)
    except UserError:
        return False  # it is missing or damaged: both engines make it anew from what is left
    measured = any(isinstance(record, Evaluated) and record.final for record in directory.metrics())
    return step >= run_plan.total_steps and (measured or not run_plan.evaluates)


def _train(
    config: RunConfig, directory: RunDirectory, resume: bool, watcher: Watcher, trusted: bool = True
) -> RunOutcome:
    """Train, or go on.

    Args:
        config: of the run.
        directory: of the run.
        resume: go on.
        watcher: told how far the run is.
        trusted: whether the user named the networks, or gave `--trust-code`.
    """
    engine = _train_sequentially if config.engine.kind == "sequential" else _train_on_ray
    return engine(config, directory, resume, watcher, trusted)


def _train_sequentially(
    config: RunConfig, directory: RunDirectory, resume: bool, watcher: Watcher, trusted: bool
) -> RunOutcome:
    from noprop_dist.engines.sequential import train_sequentially

    check_networks(config, directory, trusted)
    setup, data = prepare(config)
    for note in data.notes:
        watcher.warn(note)
    choose_device(config.engine.device)
    with directory.only_writer(watcher.say):
        if resume:
            go_on(setup.plan, directory)
        else:
            directory.create(config, setup.plan.facts)
        watcher.say(f"run directory: {directory}")
        try:
            evaluation = train_sequentially(setup, data, directory, watcher.on_progress, watcher.stopped)
        except UserError:
            raise
        except OSError as error:
            raise TrainingError(
                f"the run directory cannot be read or written: {error}; {directory.resume_command} continues the run"
            ) from error
    steps = directory.checkpoints.steps()
    finished = bool(steps) and steps[-1] >= setup.plan.total_steps
    return RunOutcome(directory.link, steps[-1] if steps else 0, evaluation, stopped=not finished)


def _train_on_ray(
    config: RunConfig, directory: RunDirectory, resume: bool, watcher: Watcher, trusted: bool
) -> RunOutcome:
    have_a_home()
    from noprop_dist.engines.ray.cluster import is_remote
    from noprop_dist.engines.ray.driver import train_on_ray

    if not is_remote(config.engine.address):
        check_networks(config, directory, trusted)
        trusted = True  # the coordinator is on this machine
        watcher.say("checking data and networks")
        run_plan, _ = check(config)  # a mistake is told before Ray takes its seconds to start
        _checked_placement(config)
        if resume:
            check_same_data(directory.facts(), run_plan.facts, str(directory), config.data)
        with directory.only_writer(watcher.say):
            pass  # so is a run directory that another process writes, or that nobody can
        watcher.say(f"run directory: {directory}")
        watcher.say("starting Ray")
    told = (watcher.on_progress, resume, watcher.stopped, watcher.say)
    return train_on_ray(config, directory.root, *told, coordinator_class=_coordinator_of(config), trusted=trusted)


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
