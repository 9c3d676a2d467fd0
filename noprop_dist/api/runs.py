"""Plan, inspect, merge, report and pack: what one can do around training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from noprop_dist.api.engines import checked_placement
from noprop_dist.api.handed_over import names_given_network
from noprop_dist.api.result import NamedRun, run_directory
from noprop_dist.api.trained import held_out_test, idle_root, open_run, tells_failing_networks
from noprop_dist.api.watcher import as_warning, silent
from noprop_dist.baseline.placement import Processes
from noprop_dist.config.arguments import checked
from noprop_dist.config.schema import DataSettings, RunConfig
from noprop_dist.data.dataset import DataFacts, DataSet
from noprop_dist.data.inputs import Keep, MappedInputs
from noprop_dist.data.load import load_data
from noprop_dist.data.packed import pack as pack_data
from noprop_dist.engines.core.drawing import Drawing, who_draws
from noprop_dist.engines.core.placement import Placement, WorkerPlace
from noprop_dist.errors import UserError
from noprop_dist.files import local_path
from noprop_dist.models.custom import NetworkFactory
from noprop_dist.records import damage_told
from noprop_dist.reporting.summary import LatestMetrics, latest_metrics
from noprop_dist.reporting.timeline import Span, timeline_of
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import Stage
from noprop_dist.storage.checkpoints import Checkpoints
from noprop_dist.storage.identity import OtherRunError
from noprop_dist.storage.manifest import Manifest, SnapshotEntry
from noprop_dist.storage.merge import merge_runs
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.torch_state import ALL_CORES, as_in_a_new_process
from noprop_dist.training.fine_tuning import read_source
from noprop_dist.training.footprint import Footprint, block_footprints, training_bytes
from noprop_dist.training.setup import check

if TYPE_CHECKING:
    from noprop_dist.reporting.run_report import WrittenReport


@dataclass(frozen=True)
class PlannedRun:
    """What a run would do and need.

    Attributes:
        plan: of the run.
        placement: of its blocks, or the processes of the baseline; None for the sequential engine.
        drawing: who draws z; None for the sequential engine and the baseline.
        footprints: memory of each block.
        data_bytes: of the training samples.
        data_is_mapped: whether they are mapped from files, and not put into the object store.
        notes: of how the data set was read.
    """

    plan: RunPlan
    placement: Placement | Processes | None
    drawing: Drawing | None
    footprints: dict[int, Footprint]
    data_bytes: int
    data_is_mapped: bool
    notes: tuple[str, ...]

    def memory_of(self, worker: WorkerPlace) -> int:
        """Bytes on its device of a worker's blocks, and of the activations of those that it trains at a time."""
        assert isinstance(self.placement, Placement)
        return training_bytes((self.footprints[block] for block in worker.blocks), self.placement.lanes)


@checked
@as_in_a_new_process()
def plan(config: RunConfig, run_dir: str | Path | None = None) -> PlannedRun:
    """Check that configuration, data, networks and a new run directory can be used; start nothing.

    Raises:
        UserError: they cannot.
    """
    if run_dir is not None:
        RunDirectory(str(run_dir)).check_unused()
    run_plan, data = check(config)
    read_source(run_plan)
    footprints = block_footprints(run_plan)
    placement: Placement | Processes | None = None
    drawing = None
    if config.engine.kind == "ray":
        placement = checked_placement(config)
        run_plan = replace(run_plan, on_gpu=placement.on_gpu)
        drawing = who_draws(run_plan, placement) if isinstance(placement, Placement) else None
    inputs = data.train.inputs
    is_mapped = isinstance(inputs, MappedInputs)
    return PlannedRun(run_plan, placement, drawing, footprints, inputs.nbytes, is_mapped, data.notes)


def resume_command(run_dir: str) -> str:
    """The command that continues a run, in backquotes and without any secret."""
    return RunDirectory(run_dir).resume_command


def timeline(run: NamedRun) -> list[Span]:
    """What the processes of a run did from the command to the first block-step.

    Args:
        run: a run directory (a path or a URI), or a `Result`.
    """
    return timeline_of(run_directory(run).metrics())


@dataclass(frozen=True)
class MergedRun:
    """Where a merged run lies, and warnings about its parts."""

    directory: str
    warnings: tuple[str, ...]


@checked
def merge(
    out: str | Path,
    runs: Annotated[Sequence[NamedRun], Field(min_length=1)],
    say: Callable[[str], None] = silent,
) -> MergedRun:
    """Assemble one network from blocks that were trained in different runs.

    Args:
        out: the new run directory.
        runs: that each trained some of the blocks (`blocks.only`).
        say: told what is waited for.

    Raises:
        UserError: the runs do not fit each other, a block is missing, or `out` holds a run.
    """
    directory = RunDirectory(str(out))
    warnings = merge_runs(directory, [run_directory(run) for run in runs], say)
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


@checked
def inspect(run: NamedRun) -> RunContents:
    """Read a run's configuration, its last checkpoint's manifest, its newest snapshots, and its latest figures.

    Raises:
        UserError: there is no run, or what describes it is damaged.
    """
    directory = run_directory(run)
    config, checkpoints = directory.config(), directory.checkpoints
    manifest = checkpoints.manifest(of_any_run=True) if checkpoints.steps() else None
    run_plan = RunPlan(config, directory.facts())
    records = directory.metrics()
    warnings = damage_told(records, directory)
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


@checked
@as_in_a_new_process(ALL_CORES)
def report(
    run: NamedRun,
    data_root: str | Path | None = None,
    *,
    data: Any = None,
    network: NetworkFactory | None = None,
    trust_code: bool = False,
) -> "WrittenReport":
    """Write report.html and plots/*.png into a run directory.

    Of a run whose data or network were handed over in Python and are not again, it has all that needs neither.

    Args:
        run: a run directory (a path or a URI), or a `Result`.
        data_root: where the data lies now, if it has moved.
        data: what was handed over to `train`, if it was.
        network: likewise.
        trust_code: see `load`.

    Raises:
        UserError: there is no run, or no checkpoint yet; or the data is not at `data_root`, or is other data; or as of
            `load`.
    """
    from noprop_dist.reporting.run_report import write_report  # matplotlib, which nothing else needs

    directory = run_directory(run)
    config = directory.config()
    directory.checkpoints.manifest()
    if config.blocks.only is not None:
        unread = f"data.root={data_root}: no effect with blocks.only: a report on single blocks reads no data"
        return write_report(directory, notes=() if data_root is None else (unread,))
    if network is None and names_given_network(config):
        return write_report(directory, left_out="its network was handed over in Python (network=…) and lies in no file")
    opened = open_run(run, network=network, trust_code=trust_code)
    notes = (*opened.warnings, *idle_root(config, data_root))
    try:
        test = held_out_test(opened, data_root, data)
    except UserError as error:
        if data_root is not None or data is not None:
            raise
        return write_report(directory, left_out=str(error), notes=notes)
    with tells_failing_networks(opened):
        return write_report(directory, (opened, test), notes=notes)


@checked
def pack(
    out: str | Path,
    settings: DataSettings,
    on_progress: Callable[[str, int, int], None],
    warn: Callable[[str], None] = as_warning,
) -> DataFacts:
    """Pack a data set into files that are mapped and not read, for data that is larger than memory.

    Args:
        out: a new folder.
        settings: of the data set.
        on_progress: told (split, samples done, samples in all).
        warn: told how the data set was read; by default `warnings.warn`.

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
