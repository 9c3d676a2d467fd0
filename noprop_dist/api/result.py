"""What a run came to, in the words of Ray Train: metrics, checkpoint, path, error."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noprop_dist.config.arguments import checked
from noprop_dist.config.refusals import shortened
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.inference.score import best_steps, last_step_of
from noprop_dist.records import Evaluated, ObjectiveMeasured, Record, RoundDone, StageFailed
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import Stage
from noprop_dist.storage.metrics_files import Place
from noprop_dist.storage.run_directory import RunDirectory

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]

    from noprop_dist.inference.classifier import NoPropClassifier

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Checkpoint:
    """Snapshots of every block and of the classifier at the same step.

    Attributes:
        path: of the run directory.
        step: of the snapshots.
    """

    path: str
    step: int
    _root: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.path, str) and isinstance(self.step, Integral)):
            given = f"{shortened(self.path)}, {shortened(self.step)}"
            raise UserError(f"Checkpoint({given}): a path, as text, and a number of steps are needed")

    def load(self, **options: Any) -> "NoPropClassifier":
        """The network of this checkpoint; see `noprop_dist.load` for the options."""
        from noprop_dist.api.trained import load

        return load(self, **options)


@dataclass(frozen=True)
class Result:
    """A run directory, and what was measured in it.

    All of it is read from there when it is asked for. So after a `resume` an earlier Result tells what the run has
    become, as `load` and `evaluate` of it do; keep what you need of before, as in `before = result.metrics`.

    Attributes:
        path: of the run directory.
    """

    path: str
    _root: str = field(default="", repr=False, compare=False)

    @staticmethod
    @checked
    def from_path(path: str | Path) -> "Result":
        """The result of the run that a run directory holds.

        Raises:
            UserError: there is no run.
        """
        directory = RunDirectory(str(path))
        RunPlan(directory.config(), directory.facts())
        return Result(directory.link, directory.root)

    @property
    def _directory(self) -> RunDirectory:
        return RunDirectory(self._root or self.path)

    @cached_property
    def _read(self) -> dict[Place, Sequence[Record]]:
        """The records that were read last, by the place behind them."""
        return {}

    @property
    def _records(self) -> Sequence[Record]:
        directory = self._directory
        end = directory.metrics_end()
        if end not in self._read:
            self._read.clear()
            self._read[end] = directory.metrics()
        return self._read[end]

    @property
    def _measured(self) -> list[dict[str, float]]:
        return _rows(self._records)

    @property
    def step(self) -> int:
        """Of the last checkpoint; 0 where none is whole yet.

        That checkpoint is not read here: where it is damaged, `load` takes the last undamaged one, and warns.
        """
        return max(self._directory.checkpoints.steps(), default=0)

    @property
    def stopped(self) -> bool:
        """Whether the run has ended before its last step, or is at work; `resume` continues it."""
        directory = self._directory
        return self.step < last_step_of(RunPlan(directory.config(), directory.facts()), directory)

    @property
    def evaluation(self) -> CheckpointEvaluation | None:
        """The accuracies of the last checkpoint that was measured, and the terms of Eq. 8; None where nothing was.

        Unless the run went to its last step they are those of a sample: `evaluate(result, checkpoint="best")` takes the
        whole test set.
        """
        return CheckpointEvaluation.last_of(self._records)

    @property
    def error(self) -> TrainingError | None:
        """Why a stage ended before its end; None where none did, or it was mended since."""
        return _error(self._records)

    @property
    def metrics(self) -> Metrics:
        """The figures of the last checkpoint that was measured: the last row of `metrics_dataframe`."""
        measured = self._measured
        return measured[-1] if measured else {}

    @property
    def metrics_dataframe(self) -> "pandas.DataFrame":
        """A row for each checkpoint that was measured.

        Columns: `step`; `validation_accuracy`, `test_accuracy` and, of the last one, `test_accuracy_stochastic`
        (fractions); `objective`, `elbo`, `cross_entropy`, `kl`, `denoising` (nats per sample, on the validation split);
        `loss of block 1` … (mean over the steps since the row before); `time` (Unix seconds).
        """
        import pandas

        return pandas.DataFrame(self._measured)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The last checkpoint; None where none is whole yet."""
        step = self.step
        return self._checkpoint(step) if step else None

    @property
    def best_checkpoints(self) -> list[tuple[Checkpoint, Metrics]]:
        """The checkpoints that the run directory keeps, each with its figures, the best one first.

        The best is that of `load(path, "best")`: by `checkpoint.score`, or else by validation accuracy; of equally good
        ones the earliest. `checkpoint.num_to_keep` says how many are kept; the last one always is. Those that were not
        measured stand at the end, the newest first.
        """
        by_step = {row["step"]: row for row in self._measured}
        return [(self._checkpoint(step), by_step.get(step, {})) for step in best_steps(self._directory)]

    def _checkpoint(self, step: int) -> Checkpoint:
        return Checkpoint(self.path, step, self._root)


NamedRun = str | Path | Result
"""A run: its directory, a path or a URI, or what `train` returned."""


def run_directory(run: NamedRun | Checkpoint) -> RunDirectory:
    return RunDirectory(run._root or run.path if isinstance(run, Result | Checkpoint) else str(run))


def _error(records: Sequence[Record]) -> TrainingError | None:
    """The failure of a stage that has done no round since; a resume may have mended it."""
    failed: dict[Stage, StageFailed] = {}
    for record in records:
        match record:
            case StageFailed():
                failed[record.stage] = record
            case RoundDone():
                failed.pop(record.stage, None)
    first = next(iter(failed.values()), None)
    return None if first is None else TrainingError(f"{first.stage.name} was stopped: {first.cause}")


def _rows(records: Sequence[Record]) -> list[dict[str, float]]:
    """See `Result.metrics_dataframe`."""
    rows: dict[int, dict[str, float]] = {}
    rounds: dict[str, list[RoundDone]] = defaultdict(list)
    for record in records:
        match record:
            case RoundDone():
                rounds[record.stage.name].append(record)
            case Evaluated() | ObjectiveMeasured():
                rows.setdefault(record.step, {"step": record.step}).update(_figures(record))
    before = 0
    for step, row in sorted(rows.items()):
        row |= dict(_mean_losses(rounds, before, step))
        before = step
    return [rows[step] for step in sorted(rows)]


def _figures(record: Evaluated | ObjectiveMeasured) -> dict[str, float]:
    if isinstance(record, Evaluated):
        sampler = "" if record.sampler == "mean" else f"_{record.sampler}"
        return {f"{record.split}_accuracy{sampler}": record.accuracy, "time": record.time}
    return {name: getattr(record, name) for name in ("objective", "elbo", "cross_entropy", "kl", "denoising")}


def _mean_losses(rounds: Mapping[str, Sequence[RoundDone]], after: int, up_to: int) -> Iterator[tuple[str, float]]:
    for stage, done in rounds.items():
        within = [each for each in done if after < each.step <= up_to]
        if within:
            yield (
                f"loss of {stage}",
                sum(each.loss * each.steps for each in within) / sum(each.steps for each in within),
            )
