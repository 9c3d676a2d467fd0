"""examples/tune.py: several runs on one Ray, each with its share."""

import importlib.util
from pathlib import Path

import pytest

import noprop_dist
from noprop_dist.records import WorkerReady
from noprop_dist.storage.run_directory import RunDirectory

EXAMPLE = Path(__file__).parents[2] / "examples/tune.py"


@pytest.mark.slow
def test_four_trials_of_a_sweep_train_each_on_the_core_that_tune_reserved_for_it(tmp_path):
    spec = importlib.util.spec_from_file_location("tune_example", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    grid = example.sweep(4, tmp_path, steps=40)

    assert [result.error for result in grid] == [None] * 4
    assert len({result.config["training"]["learning_rate"] for result in grid}) == 4
    for result in grid:
        run = result.metrics["run"]
        assert Path(run).parent == tmp_path
        assert noprop_dist.Result.from_path(run).step == 40
        workers = {record.worker for record in RunDirectory(run).metrics() if isinstance(record, WorkerReady)}
        assert {name for name in workers if name.startswith("block worker")} == {"block worker 1"}  # of one core
    assert grid.get_best_result().metrics["accuracy"] == max(result.metrics["accuracy"] for result in grid)
