"""What a run came to, in the words of Ray Train: metrics, checkpoint, path, error."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from noprop_dist.errors import TrainingError
from noprop_dist.inference.checkpoint_evaluation import CheckpointEvaluation
from noprop_dist.records import Evaluated, ObjectiveMeasured, Record, RoundDone, StageFailed
from noprop_dist.stages import Stage
from noprop_dist.storage.run_directory import RunDirectory

if TYPE_CHECKING:
    import pandas

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

    def load(self, **options: Any) -> "NoPropClassifier":
        """The network of this checkpoint; see `noprop_dist.load` for the options."""
        from noprop_dist.api import load

        return load(self.path, self.step, **options)


@dataclass(frozen=True)
class Result:
    """A run directory, and what was measured in it.

    Attributes:
        path: of the run directory.
        stopped: whether the run was asked to stop before its end; `resume` continues it.
        error: why the run ended before its end; None where nothing failed.
    """

    path: str
    stopped: bool = False
    error: TrainingError | None = None
    _records: Sequence[Record] = field(default=(), repr=False)
    _steps: Sequence[int] = field(default=(), repr=False)

    @staticmethod
    def of(directory: RunDirectory, stopped: bool = False) -> "Result":
        """The result of what lies in a run directory."""
        records = directory.metrics()
        return Result(directory.link, stopped, _error(records), records, directory.checkpoints.steps())

    @cached_property
    def metrics(self) -> Metrics:
        """The figures of the last checkpoint that was measured, as the last row of `metrics_dataframe`."""
        return _rows(self._records)[-1] if _rows(self._records) else {}

    @property
    def metrics_dataframe(self) -> "pandas.DataFrame":
        """A row for each checkpoint that was measured.

        Columns: `step`; `validation_accuracy`, `test_accuracy` and, of the last one, `test_accuracy_stochastic`
        (fractions); `objective`, `elbo`, `cross_entropy`, `kl`, `denoising` (nats per sample, on the validation split);
        `loss of block 1` … (mean over the steps since the row before); `time` (Unix seconds).
        """
        import pandas

        return pandas.DataFrame(_rows(self._records))

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The last checkpoint; None where none is whole yet."""
        return Checkpoint(self.path, self._steps[-1]) if self._steps else None

    @property
    def best_checkpoints(self) -> list[tuple[Checkpoint, Metrics]]:
        """The checkpoints that the run directory keeps, each with its figures, the oldest first."""
        by_step = {row["step"]: row for row in _rows(self._records)}
        return [(Checkpoint(self.path, step), by_step.get(step, {})) for step in self._steps]

    @property
    def evaluation(self) -> CheckpointEvaluation | None:
        """The accuracies of the last checkpoint that was measured; None where nothing was."""
        return CheckpointEvaluation.last_of(self._records)


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
