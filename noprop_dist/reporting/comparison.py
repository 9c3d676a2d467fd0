"""Runs side by side: which settings differ, which runs are repetitions, their tables and their picture."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING, Any

from noprop_dist.config.bits import every_setting, shown
from noprop_dist.config.schema import RunConfig
from noprop_dist.errors import UserError
from noprop_dist.reporting.run_figures import FILE_OF, RunFigures
from noprop_dist.reporting.tables import Mean, markdown_table

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]
    from matplotlib.figure import Figure

OF_EVERY_RUN = every_setting(RunConfig()).keys()
"""Keys of settings that every run has; one that lacks them has no use for them."""
BESIDE = 3
"""So many settings that differ stand beside the figures; more have a table of their own."""
LONGEST_CELL = 60


@dataclass(frozen=True)
class Column:
    """A figure of the tables.

    Attributes:
        name: of the field of `RunFigures`.
        heading: with its unit.
        form: how a value is written; see `format`.
        scale: from the field's unit to that of the heading.
        highest_is_best: else the lowest is.
        is_count: the same in all repetitions, or else shown from least to most, for a mean of it says nothing.
        of: field with the number of samples that were measured, if that may be a part of the set.
        whole: field with the samples of the whole set.
    """

    name: str
    heading: str
    form: str = ",.0f"
    scale: float = 1
    highest_is_best: bool = False
    is_count: bool = False
    of: str = ""
    whole: str = ""


ACCURACIES = (
    Column("test_accuracy", "test, mean sampler (%)", ".2f", 100, True, of="test_samples", whole="test_set"),
    Column("test_accuracy_stochastic", "test, stochastic (%)", ".2f", 100, True, of="test_samples", whole="test_set"),
    Column("validation_accuracy", "validation (%)", ".2f", 100, True, of="validation_samples", whole="validation_set"),
    Column("elbo", "validation ELBO (nats)", ".3f", highest_is_best=True),
)
COSTS = (
    Column("training_seconds", "training (s)", ",.1f"),
    Column("block_steps", "block-steps", is_count=True),
    Column("block_steps_per_second", "block-steps/s", highest_is_best=True),
    Column("peak_memory_bytes", "peak memory (MiB)", scale=2**-20),
    Column("block_parameters", "parameters of a block", is_count=True),
    Column("parameters", "parameters", is_count=True),
)
COLUMNS = {column.name: column for column in (*ACCURACIES, *COSTS)}
OTHER_ORDERS = ("name", "method", "seed", "steps", "epochs")


@dataclass(frozen=True)
class Row:
    """One row of a comparison.

    Attributes:
        runs: a single run, or runs with the same settings but for their seeds.
    """

    runs: tuple[RunFigures, ...]

    @property
    def name(self) -> str:
        """Of the first run, and how many there are beside it."""
        first, *others = self.runs
        return f"{first.name} +{len(others)}" if others else first.name

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, each once."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    def mean(self, figure: str) -> Mean | None:
        """The mean of a figure over the runs that have it; None where none has.

        Args:
            figure: name of a field of `RunFigures` that holds a number.
        """
        values = [value for run in self.runs if (value := getattr(run, figure)) is not None]
        return Mean.of(values) if values else None


@dataclass(frozen=True)
class TextTable:
    """A table as text: the cells of a row are as many as the headings."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        rows: a run each, or its repetitions together, in the order that was asked for.
        grouped: whether repetitions stand together.
        warnings: what is damaged or missing in the runs.
    """

    rows: tuple[Row, ...]
    grouped: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[RunFigures, ...]:
        """All runs, in the order of the rows."""
        return tuple(run for row in self.rows for run in row.runs)

    @cached_property
    def differing(self) -> tuple[str, ...]:
        """Keys of the settings that are not the same in all runs which have a use for them."""
        keys = dict.fromkeys(key for run in self.runs for key in run.settings)
        told = {key: {_told(run, key) for run in self.runs} - {None} for key in keys}
        return tuple(key for key, values in told.items() if len(values) > 1)

    @property
    def dataframe(self) -> "pandas.DataFrame":
        """A row for each run: the fields of `RunFigures` but its curve, and each setting that differs."""
        import pandas

        return pandas.DataFrame([_flat(run, self.differing) for run in self.runs])

    def to_json(self) -> dict[str, Any]:
        """As plain values: all figures of each run in the units of `RunFigures`, and means where rows are groups."""
        plain: dict[str, Any] = {"differing_settings": list(self.differing)}
        plain["runs"] = [{**asdict(run), "settings": _chosen(run, self.differing)} for run in self.runs]
        if self.grouped:
            plain["groups"] = [_plain_group(row) for row in self.rows]
        finite: dict[str, Any] = _finite(plain)
        return finite

    def markdown(self) -> str:
        """The tables for a document."""
        return "\n".join(markdown_table(table.headings, table.rows) for table in self.tables(joined=True))

    def _repr_markdown_(self) -> str:  # for notebooks
        return self.markdown()

    def tables(self, *, joined: bool) -> tuple[TextTable, ...]:
        """Accuracy and cost in one table or in two; where many settings differ, these in another.

        Columns without a single figure are left out.
        """
        names = [("run", [row.name for row in self.rows])]
        columns = {"run": names, "accuracy": list(self._how_good()), "cost": list(self._what_it_took())}
        parts = [("run", "accuracy", "cost")] if joined else [("run", "accuracy"), ("run", "cost")]
        means = ["mean ± standard error over seeds"] if self.grouped else []
        tables = [
            _table(", ".join(([] if joined else [part[-1]]) + means), [each for name in part for each in columns[name]])
            for part in parts
        ]
        if len(self.differing) > BESIDE:
            headings = ("setting", *(row.name for row in self.rows))
            cells = tuple((key, *(_setting(row, key) for row in self.rows)) for key in self.differing)
            tables.append(TextTable("settings that differ", headings, cells))
        return tuple(tables)

    def figure(self) -> "Figure":
        """Test accuracy at checkpoints over seconds of training and over epochs, a line for each run.

        Raises:
            UserError: none of the runs was measured.
        """
        from noprop_dist.reporting.plots import accuracy_of_runs

        if not any(run.curve for run in self.runs):
            raise UserError("there is nothing to draw: no checkpoint of these runs was measured on test samples")
        return accuracy_of_runs(self.rows)

    def _how_good(self) -> Iterator[tuple[str, list[str]]]:
        yield "method", [row.runs[0].method for row in self.rows]
        for key in self.differing if len(self.differing) <= BESIDE else ():
            yield key, [_setting(row, key) for row in self.rows]
        if self.grouped:
            yield "seeds", [f"{len(row.seeds)}" for row in self.rows]
        else:
            yield "seed", [f"{row.runs[0].seed}" for row in self.rows]
        for column in ACCURACIES:
            yield column.heading, [_cell(row, column) for row in self.rows]

    def _what_it_took(self) -> Iterator[tuple[str, list[str]]]:
        yield "steps", [_steps(row) for row in self.rows]
        yield "epochs", [_range(row, "epochs", ".3g") for row in self.rows]
        for column in COSTS:
            yield column.heading, [_cell(row, column) for row in self.rows]
        yield "device", [_device(row) for row in self.rows]


def comparison_of(
    runs: Sequence[RunFigures], warnings: Sequence[str] = (), *, group: bool = False, sort: str | None = None
) -> Comparison:
    """Put runs side by side.

    Args:
        runs: in any order.
        warnings: of reading them.
        group: whether repetitions, which differ in their seeds alone, stand in one row.
        sort: what the rows are sorted by: a name of `COLUMNS` or `OTHER_ORDERS`, or the key of a setting that differs;
            None leaves their order.

    Raises:
        UserError: there is nothing of that name to sort by.
    """
    groups: dict[object, list[RunFigures]] = {}
    for number, run in enumerate(runs):
        groups.setdefault(_without_seed(run) if group else number, []).append(run)
    rows = tuple(Row(tuple(each)) for each in groups.values())
    told = [*warnings, *(line for row in rows for line in _repeated_seeds(row))]
    comparison = Comparison(rows, group, tuple(told))
    if sort is None:
        return comparison
    allowed = (*COLUMNS, *OTHER_ORDERS, *comparison.differing)
    if sort not in allowed:
        raise UserError(f"sort={sort}: is no figure and no setting that differs; allowed are {', '.join(allowed)}")
    return Comparison(tuple(_sorted(rows, sort)), group, tuple(told))


def _without_seed(run: RunFigures) -> object:
    """What repetitions share. A run that is not at its end is like none that is further."""
    settings = tuple(sorted((key, shown(value)) for key, value in run.settings.items()))
    return run.method, settings, None if run.finished else run.steps


def _repeated_seeds(row: Row) -> Iterator[str]:
    if len(row.seeds) < len(row.runs):
        names = ", ".join(run.name for run in row.runs)
        yield (
            f"{names}: {len(row.runs)} runs with the same settings have {len(row.seeds)} seed(s): those of one seed "
            "count each, and the standard error is too small"
        )


def _sorted(rows: Sequence[Row], by: str) -> list[Row]:
    """Rows by a figure, the best first, or by something else, the lowest first; those without it stand at the end."""
    sign = -1 if by in COLUMNS and COLUMNS[by].highest_is_best else 1

    def key(row: Row) -> tuple[int, float, str]:
        first = row.runs[0]
        value = first.settings.get(by) if by in first.settings else getattr(first, by, None)
        if by in COLUMNS:
            mean = row.mean(by)
            value = None if mean is None else mean.value
        if isinstance(value, int | float) and isfinite(value):
            return 0, sign * value, ""
        return (2, 0, "") if value is None or isinstance(value, float) else (1, 0, shown(value))

    return sorted(rows, key=key)


def _told(run: RunFigures, key: str) -> str | None:
    """The value of a setting as `--set` has it; None where the run has no use for it."""
    if key in run.settings:
        return shown(run.settings[key])
    is_of_another_kind = f"{key.rpartition('.')[0]}.kind" in run.settings
    return None if key in OF_EVERY_RUN or key.startswith(("samples.", FILE_OF)) or is_of_another_kind else "null"


def _setting(row: Row, key: str) -> str:
    text = _told(row.runs[0], key) or ""
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 2]} …"


def _steps(row: Row) -> str:
    first = row.runs[0]
    return _range(row, "steps", ",") if first.finished else f"{first.steps:,} of {first.total_steps:,}"


def _range(row: Row, figure: str, form: str) -> str:
    values = [value for run in row.runs if (value := getattr(run, figure)) is not None]
    return "–".join(dict.fromkeys(format(each, form) for each in (min(values), max(values)))) if values else ""


def _cell(row: Row, column: Column) -> str:
    if column.is_count:
        return _range(row, column.name, column.form)
    mean = row.mean(column.name)
    notes = [] if mean is None else list(_notes(row, column))
    return "" if mean is None else mean.text(column.form, column.scale) + (f" ({', '.join(notes)})" if notes else "")


def _notes(row: Row, column: Column) -> Iterator[str]:
    """On how many samples accuracy was measured, if not on all, and at which step, if not the last."""
    if not column.of:
        return
    measured = [run for run in row.runs if getattr(run, column.name) is not None]
    samples = {getattr(run, column.of) for run in measured if getattr(run, column.of) != getattr(run, column.whole)}
    if samples:
        yield f"n = {', '.join(f'{each:,}' for each in sorted(samples))}"
    steps = {run.evaluated_step for run in measured if run.evaluated_step not in (None, run.steps)}
    if steps:
        yield f"step {', '.join(f'{each:,}' for each in sorted(filter(None, steps)))}"


def _device(row: Row) -> str:
    """A GPU by its name."""
    names = (run.processors if run.device == "cuda" and run.processors else (run.device or "",) for run in row.runs)
    return ", ".join(dict.fromkeys(name for each in names for name in each if name))


def _table(title: str, columns: Sequence[tuple[str, list[str]]]) -> TextTable:
    filled = [(heading, cells) for heading, cells in columns if any(cells)]
    return TextTable(
        title,
        tuple(heading for heading, _ in filled),
        tuple(zip(*(cells for _, cells in filled), strict=True)),
    )


def _flat(run: RunFigures, keys: Sequence[str]) -> dict[str, Any]:
    figures = {name: value for name, value in vars(run).items() if name not in ("settings", "curve")}
    return {**figures, **{key: run.settings.get(key) for key in keys}}


def _chosen(run: RunFigures, keys: Sequence[str]) -> dict[str, Any]:
    return {key: run.settings[key] for key in keys if key in run.settings}


def _plain_group(row: Row) -> dict[str, Any]:
    means = {name: row.mean(name) for name in COLUMNS}
    figures = {
        name: None if mean is None else {"mean": mean.value, "standard_error": mean.error, "runs": mean.count}
        for name, mean in means.items()
    }
    return {"name": row.name, "runs": [run.name for run in row.runs], "seeds": list(row.seeds), **figures}


def _finite(value: Any) -> Any:
    """Plain values as every reader of JSON takes them: what is no number is null."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
