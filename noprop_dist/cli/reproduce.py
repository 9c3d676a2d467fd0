"""`reproduce`: trains and measures the paper's table, run by run, and skips what is done."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from noprop_dist import api
from noprop_dist.cli.options import configured, warn, working
from noprop_dist.cli.tables import print_tables
from noprop_dist.cli.training import resume_run, start_run
from noprop_dist.config.schema import RunConfig
from noprop_dist.data.load import load_data
from noprop_dist.errors import UserError
from noprop_dist.inference.evaluation import evaluate
from noprop_dist.records import RoundDone
from noprop_dist.report.paper_table import COLUMNS, NAMES, PAPER, Cell, markdown, table_rows
from noprop_dist.report.summary import busy_seconds, of_kind
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import Store

PASSES = 5
EMBEDDINGS = {
    "onehot": "embedding={kind: onehot}",
    "learned": "embedding={kind: learned, dim: 20}",
    "prototype": "embedding={kind: prototype}",
}

console = Console(highlight=False, soft_wrap=True)
progress = Console(stderr=True, highlight=False, soft_wrap=True)


def reproduce(data: str, seeds: int, epochs: int | None, out: str, settings: Sequence[str]) -> None:
    """Train and measure every run of the paper's table for one data set; prints and writes the table.

    Raises:
        UserError: there is no such table, or `out` holds runs of other settings.
    """
    if data not in PAPER:
        raise UserError(f"reproduce {data}: allowed are {', '.join(PAPER)}")
    cells: dict[tuple[str, str], list[Cell]] = {row: [] for row in PAPER[data]}
    for seed in range(seeds):
        for method, embedding in PAPER[data]:
            own = [f"seed={seed}", f"method={method}", EMBEDDINGS[embedding], "metrics.port=null"]
            own += [f"training.epochs={epochs}"] if epochs else []
            config = configured(data, None, [*own, *settings], None, None)
            name = f"{method}-{embedding}-seed{seed}"
            progress.print(f"{NAMES[method]}, {NAMES[embedding]}, seed {seed}")
            cells[method, embedding].append(_cell(config, RunDirectory(f"{out}/{name}")))
            _write(data, cells, Store(out))
    _show(data, cells)
    console.print(f"{out}/table.md")


def _cell(config: RunConfig, directory: RunDirectory) -> Cell:
    """The figures of one run; trains it, continues it, or takes what was measured before."""
    store, results = Store(str(directory)), "reproduced.json"
    if directory.holds_run:
        api.check_same_run(directory, config)
        if store.exists(results):
            found = json.loads(store.read(results))
            return Cell(**{**found, "stochastic": tuple(found["stochastic"])})
        resume_run(str(directory), [], None)
    else:
        start_run(config, str(directory))
    cell = _measure(directory)
    store.write(results, json.dumps(asdict(cell)).encode())
    return cell


def _measure(directory: RunDirectory) -> Cell:
    run = api.load(str(directory))
    warn(run.warnings)
    test = load_data(run.plan.config.data).held_out.test
    with working(f"{PASSES + 1} passes over {len(test):,} test samples"):
        mean = evaluate(run.network, test, "mean").accuracy
        passes = [evaluate(run.network, test, "stochastic", first_pass=i).accuracy for i in range(PASSES)]
    rounds = of_kind(directory.metrics(), RoundDone)
    return Cell(
        seed=run.plan.config.seed,
        epochs=run.plan.total_steps / run.plan.steps_per_epoch,
        stochastic=tuple(passes),
        mean=mean,
        training_seconds=busy_seconds(rounds),
        peak_memory_bytes=max(each.peak_memory_bytes for each in rounds),
    )


def _write(data: str, cells: dict[tuple[str, str], list[Cell]], store: Store) -> None:
    store.write("table.md", markdown(table_rows(data, cells)).encode())
    flat = [
        {"method": method, "embedding": embedding, **asdict(cell)}
        for (method, embedding), measured in cells.items()
        for cell in measured
    ]
    store.write("table.json", json.dumps({"rows": flat}, indent=1).encode())


def _show(data: str, cells: dict[tuple[str, str], list[Cell]]) -> None:
    table = Table(title=f"{data}: mean ± standard error over seeds and {PASSES} passes", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in table_rows(data, cells):
        table.add_row(*row)
    print_tables(table)
