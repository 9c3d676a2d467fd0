"""The benchmarks on a real Ray; `tests/unit/test_bench_tables.py` has those whose tables can be filled without."""

import json

import pytest

from noprop_dist.cli.app import main

pytestmark = pytest.mark.slow


def run_bench(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments, "--json"])
    assert end.value.code == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("ray_here")
def test_overhead_compares_both_sides_in_one_run(capsys):
    small = ("--set", "blocks.count=2", "--steps", "960", "--repeats", "1")
    result = run_bench(capsys, "overhead", *small)
    sides = {row["side"]: row for row in result["rows"]}
    assert set(sides) == {"Ray engine", "bare processes"}
    assert all(row["least"] <= row["median"] <= row["most"] for row in result["rows"])
    assert result["ratio"] == sides["Ray engine"]["median"] / sides["bare processes"]["median"]


def test_isolation_kills_a_worker_and_says_how_long_it_was_away(capsys):
    result = run_bench(capsys, "isolation", "--seconds", "10", "--repeats", "1")
    sides = {row["side"]: row for row in result["rows"]}
    total = sides["killed worker: total (s)"]
    assert total["median"] > sides["killed worker: started (s)"]["median"] > 0
    assert sides["others while killing"]["median"] > 0


def test_straggler_watches_memory_while_the_others_run_ahead(capsys, tmp_path):
    result = run_bench(capsys, "straggler", "--seconds", "10", "--plot", str(tmp_path / "memory.png"))
    last = result["rows"][-1]
    assert last["fastest_step"] > 2 * last["slowest_step"]
    assert last["coordinator_mib"] > 0
    assert (tmp_path / "memory.png").stat().st_size > 0


def test_a_soak_watches_every_process_of_a_run(capsys, tmp_path):
    result = run_bench(capsys, "soak", "--minutes", "0.2", "--plot", str(tmp_path / "soak.png"))
    assert {row["role"] for row in result["rows"]} >= {
        "Ray's GCS",
        "coordinator",
        "block workers",
        "evaluator",
        "driver",
    }
    assert all(row["mib_at_end"] > 1 for row in result["rows"])
    assert result["rounds_per_second"] > 1


@pytest.mark.usefixtures("ray_here")
def test_dispatch_measures_the_engine_with_blocks_that_do_nothing(capsys):
    result = run_bench(capsys, "dispatch", "--rounds", "2000", "--repeats", "1", "--blocks", "10", "--blocks", "200")
    assert [row["blocks"] for row in result["rows"]] == [10, 200]
    for row in result["rows"]:
        assert row["microseconds_per_block_step"] == pytest.approx(1e6 / row["block_steps_per_second"])
        assert row["cpu_percent"] > 0
    ends = [result["rows"][end]["microseconds_per_block_step"] for end in (-1, 0)]
    assert result["growth"] == pytest.approx(ends[0] / ends[1])


@pytest.mark.usefixtures("ray_here")
def test_accuracy_measures_noprop_against_back_propagation(capsys):
    small = ("--steps", "60", "--every", "20", "--repeats", "1", "--target", "0.5", "--set", "blocks.count=3")
    rows = run_bench(capsys, "accuracy", *small)["rows"]
    assert [row["method"] for row in rows] == ["noprop", "backprop"]
    assert all(row["final_percent"] > 10 for row in rows)
