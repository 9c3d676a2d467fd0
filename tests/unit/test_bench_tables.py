"""What the benchmarks' tables hold, without Ray; `tests/engine/test_bench.py` has those that measure the engine."""

import json
from contextlib import nullcontext

import pytest

from noprop_dist.api import train
from noprop_dist.bench import memory, rates, scaling, snapshots, sync_steps
from noprop_dist.bench.dispatch import DispatchRow
from noprop_dist.bench.faults import sequential_fingerprints
from noprop_dist.bench.harness import Spread
from noprop_dist.cli.app import main
from noprop_dist.cli.tables import show_rows
from noprop_dist.engines.core.placement import Resources
from noprop_dist.records import RoundDone
from noprop_dist.stages import CLASSIFIER, block

MIB = 2**20
SMALL = ["--set", "blocks.count=2", "--set", "blocks.network={kind: mlp, width: 8, depth: 1}", "--repeats", "1"]


@pytest.fixture
def bench(monkeypatch, capsys):
    """Runs a benchmark; runs of the Ray engine are done by the sequential one, which writes the same records."""

    def train_here(config, folder, watcher):
        here = config.model_copy(update={"engine": config.engine.model_copy(update={"kind": "sequential"})})
        return train(here, folder, watcher=watcher)

    monkeypatch.setattr(rates, "train", train_here)
    for module in (memory, scaling, snapshots, sync_steps):
        monkeypatch.setattr(module, "ray_session", nullcontext)

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["bench", *arguments, "--json"])
        assert end.value.code == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_snapshots_are_measured_against_none_at_all(bench):
    result = bench("snapshots", "--preset", "digits", *SMALL, "--steps", "96", "--every", "16", "--workers", "1")
    assert [row["side"] for row in result["rows"]] == ["every 16 steps", "none"]
    assert all(row["median"] > 0 for row in result["rows"])
    assert result["default_every"] == 64


@pytest.mark.parametrize("columns", [40, 80])
def test_a_table_fits_the_terminal_and_loses_nothing(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    row = DispatchRow(200, 2, Spread([1200.0, 1234.5, 1300.0]), 77.0, 810.5, 31.5, 180.25)
    show_rows("no-op blocks", [row], False, "below")
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= columns
    assert {"200", "1234.50", "below"} <= set(text.replace("│", " ").split())
    assert "…" not in text


def test_the_coordinator_is_measured_without_ray_with_a_worker_for_each_block(bench):
    turns = ["--rounds", "2000", "--repeats", "2", "--simulated", "0"]
    result = bench("dispatch", *turns, "--blocks", "40", "--blocks", "4")
    assert [(row["blocks"], row["workers"]) for row in result["rows"]] == [(4, 4), (40, 40)]
    for row in result["rows"]:
        assert len(row["turns"]) == 2
        assert 0 < row["cpu_percent"] < 400
        assert row["microseconds_per_block_step"] == pytest.approx(1e6 / row["block_steps_per_second"])


def test_simulated_workers_take_as_long_for_a_round_as_asked(bench):
    (row,) = bench("dispatch", "--rounds", "2000", "--repeats", "1", "--simulated", "0.01", "--blocks", "50")["rows"]
    assert row["block_rounds_per_second"] < 1.3 * 50 / 0.01, "at once, it would be 20,000"


@pytest.mark.slow
def test_every_length_of_a_version_is_measured_beside_fixed_embeddings(bench):
    rows = bench("sync-steps", *SMALL, "--steps", "192", "--workers", "1")["rows"]
    assert [row["w_embed"] for row in rows] == [
        "one-hot, fixed",
        *(f"learned, sync_steps {n}" for n in (1, 8, 32, 128)),
    ]
    assert all(row["block_steps_per_second"] > 0 for row in rows)
    assert rows[0]["mean_sampler_percent"] > 50


def round_done(stage, seconds, peak_mib=0):
    return RoundDone(stage=stage, first_step=0, steps=10, step=10, loss=1.0, error=1.0, gradient_norm=1.0, seconds=1.0,
                     peak_memory_bytes=peak_mib * MIB, time=seconds)  # fmt: skip


def test_memory_of_one_block_is_compared_with_that_of_the_whole_baseline(bench, monkeypatch):
    def records(config):
        assert config.method == "backprop" or config.blocks.trained() == (1,)
        peak = 7 * config.blocks.count if config.method == "backprop" else 100
        return [round_done(block(1), 1.0, peak), round_done(CLASSIFIER, 2.0, 10_000)]

    monkeypatch.setattr(memory, "ray_records", records)
    result = bench("memory", "--preset", "digits", "--steps", "2", "--repeats", "1")
    sides = [(row["blocks"], row["block_worker_mib"], row["baseline_mib"]) for row in result["rows"]]
    assert sides == [(10, 100, 70), (50, 100, 350)]
    assert result["growth"] == {"block_worker": 1, "baseline": 5}


def test_scaling_measures_real_and_sleeping_blocks_against_ideal(bench, monkeypatch):
    def sleeping(blocks, steps, workers, worker):
        """Every round of 10 steps takes a second."""
        assert (blocks, steps * worker.step_seconds) == (workers, 20 + 3 * workers)
        return [round_done(block(t), second) for t in range(1, blocks + 1) for second in range(40)]

    monkeypatch.setattr(scaling, "ray_rate", lambda config, workers: 100 * workers**0.5)
    monkeypatch.setattr(scaling, "idle_records", sleeping)
    monkeypatch.setattr(scaling, "cluster_resources", lambda: Resources(2, 0))
    rows = bench("scaling", "--most", "3", "--repeats", "1")["rows"]
    assert [(row["kind"], row["workers"], row["ideal"]) for row in rows] == [
        *(("digits", 1, 100), ("digits", 2, 200)),
        *(("sleeping", 1, 50), ("sleeping", 2, 100)),
    ]
    assert [row["percent_of_ideal"] for row in rows] == pytest.approx([100, 70.7, 20, 20], abs=0.1)


def test_a_benchmarked_run_tells_no_progress_of_its_own(tmp_path, capsys):
    sequential_fingerprints(["blocks.count=1", "training.max_steps=2", "evaluation.samples=0"], tmp_path / "run")
    assert capsys.readouterr() == ("", "")
