"""Trains and measures the paper's table for one data set, run by run, and skips what is done."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from noprop_dist import api
from noprop_dist.api import Result, Watcher
from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import RunConfig
from noprop_dist.data.load import load_data
from noprop_dist.errors import UserError
from noprop_dist.files import JsonObject, from_json, parse_json
from noprop_dist.inference.evaluation import Passes, measure
from noprop_dist.reporting.paper_table import COLUMNS, NAMES, PAPER, Cell, markdown, table_rows
from noprop_dist.reporting.run_figures import read_figures
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import Store
from noprop_dist.torch_state import ALL_CORES, as_in_a_new_process

PASSES = 5
EMBEDDINGS = {
    "onehot": "embedding={kind: onehot}",
    "learned": "embedding={kind: learned, dim: 20}",
    "prototype": "embedding={kind: prototype}",
}
__all__ = ["COLUMNS", "PASSES", "reproduce", "table_rows"]
Cells = dict[tuple[str, str], list[Cell]]
"""By method and embedding; one for each seed."""
Watched = Callable[[str, Callable[[Watcher], Result]], Result]
"""Runs a training in a run directory and shows its progress."""


def reproduce(
    data: str,
    seeds: int,
    epochs: int | None,
    out: str,
    settings: Sequence[str],
    watched: Watched,
    say: Callable[[str], None],
) -> Cells:
    """Train and measure every run of the paper's table; writes table.md and table.json after each.

    Args:
        data: mnist, cifar10 or cifar100.
        seeds: runs of each row, with seeds 0, 1, ….
        epochs: of each run; None for the paper's.
        out: folder of the runs.
        settings: further ones, of every run.
        watched: shows the progress of a run.
        say: told which run is next.

    Raises:
        UserError: there is no such table, or `out` holds runs of other settings.
    """
    if data not in PAPER:
        raise UserError(f"reproduce {data}: allowed are {', '.join(PAPER)}")
    cells: Cells = {row: [] for row in PAPER[data]}
    for seed in range(seeds):
        for method, embedding in PAPER[data]:
            own = [f"seed={seed}", f"method={method}", EMBEDDINGS[embedding], "metrics.port=null"]
            own += [f"training.epochs={epochs}"] if epochs else []
            config = load_config(data, None, [*own, *settings])
            say(f"{NAMES[method]}, {NAMES[embedding]}, seed {seed}")
            directory = RunDirectory(f"{out}/{method}-{embedding}-seed{seed}")
            cells[method, embedding].append(_cell(config, directory, watched))
            _write(data, cells, Store(out))
    return cells


def _cell(config: RunConfig, directory: RunDirectory, watched: Watched) -> Cell:
    """The figures of one run; trains it, continues it, or takes what was measured before."""
    store, results, where = Store(directory.root), "reproduced.json", directory.root
    if directory.holds_run and store.exists(results):
        api.check_same_run(directory, config)
        try:
            return from_json(Cell, parse_json(store.read(results), JsonObject))
        except ValueError as error:
            raise UserError(
                f"{store}: {results} cannot be read: {error}; without that file the run is measured anew"
            ) from error
    watched(where, lambda watcher: api.train(config, where, or_resume=True, watcher=watcher))
    cell = _measure(where)
    store.write(results, json.dumps(asdict(cell)).encode())
    return cell


@as_in_a_new_process(ALL_CORES)
def _measure(run_dir: str) -> Cell:
    run = api.open_run(run_dir)
    test = load_data(run.plan.config.data).held_out.test
    passes = [Passes("mean"), *(Passes("stochastic", first=i) for i in range(PASSES))]
    mean, *stochastic = (each.accuracy for each in measure(run.network, test, passes).accuracies)
    figures, _ = read_figures(run.directory)
    return Cell(
        seed=figures.seed,
        epochs=figures.epochs or 0.0,
        stochastic=tuple(stochastic),
        mean=mean,
        training_seconds=figures.training_seconds or 0.0,
        peak_memory_bytes=figures.peak_memory_bytes or 0,
    )


def _write(data: str, cells: Cells, store: Store) -> None:
    store.write("table.md", markdown(table_rows(data, cells)).encode())
    flat = [
        {"method": method, "embedding": embedding, **asdict(cell)}
        for (method, embedding), measured in cells.items()
        for cell in measured
    ]
    store.write("table.json", json.dumps({"rows": flat}, indent=1).encode())
