"""The benchmarks on a real Ray: small runs of each, and what their tables hold."""

import json

import pytest

from noprop_dist.cli.app import main


def run_bench(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments, "--json"])
    assert end.value.code == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_overhead_compares_both_sides_in_one_run(capsys):
    small = ("--set", "blocks.count=2", "--steps", "960", "--repeats", "1")
    result = run_bench(capsys, "overhead", *small)
    sides = {row["side"]: row for row in result["rows"]}
    assert set(sides) == {"Ray engine", "bare processes"}
    assert all(row["least"] <= row["median"] <= row["most"] for row in result["rows"])
    assert result["ratio"] == sides["Ray engine"]["median"] / sides["bare processes"]["median"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_snapshots_are_measured_against_none_at_all(capsys):
    small = ("--preset", "digits", "--set", "blocks.count=2", "--steps", "480", "--repeats", "1", "--every", "16")
    result = run_bench(capsys, "snapshots", *small)
    assert [row["side"] for row in result["rows"]] == ["every 16 steps", "none"]
    assert result["default_every"] == 64


@pytest.mark.slow
def test_isolation_kills_a_worker_and_says_how_long_it_was_away(capsys):
    result = run_bench(capsys, "isolation", "--seconds", "10", "--repeats", "1")
    sides = {row["side"]: row for row in result["rows"]}
    total = sides["killed worker: total (s)"]
    assert total["median"] > sides["killed worker: started (s)"]["median"] > 0
    assert sides["others while killing"]["median"] > 0


@pytest.mark.slow
def test_straggler_watches_memory_while_the_others_run_ahead(capsys, tmp_path):
    result = run_bench(capsys, "straggler", "--seconds", "15", "--plot", str(tmp_path / "memory.png"))
    last = result["rows"][-1]
    assert last["fastest_step"] > 2 * last["slowest_step"]
    assert last["coordinator_mib"] > 0
    assert (tmp_path / "memory.png").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_every_length_of_a_version_is_measured_beside_fixed_embeddings(capsys):
    rows = run_bench(capsys, "sync-steps", "--set", "blocks.count=2", "--steps", "640", "--repeats", "1")["rows"]
    assert [row["w_embed"] for row in rows] == [
        "one-hot, fixed",
        *(f"learned, sync_steps {n}" for n in (1, 8, 32, 128)),
    ]
    assert all(row["block_steps_per_second"] > 0 and row["mean_sampler_percent"] > 50 for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_dispatch_measures_the_engine_with_blocks_that_do_nothing(capsys):
    result = run_bench(capsys, "dispatch", "--rounds", "2000", "--repeats", "1")
    assert [row["blocks"] for row in result["rows"]] == [10, 50, 100, 200]
    for row in result["rows"]:
        assert row["microseconds_per_block_step"] == pytest.approx(1e6 / row["block_steps_per_second"])
    ends = [result["rows"][end]["microseconds_per_block_step"] for end in (-1, 0)]
    assert result["growth"] == pytest.approx(ends[0] / ends[1])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_scaling_measures_real_and_sleeping_blocks_against_ideal(capsys):
    rows = run_bench(capsys, "scaling", "--most", "2", "--steps", "480", "--repeats", "1")["rows"]
    assert [(row["kind"], row["workers"]) for row in rows] == [
        *(("digits", 1), ("digits", 2)),
        *(("sleeping", 1), ("sleeping", 2)),
    ]
    assert [row["ideal"] for row in rows[2:]] == [50, 100]
    assert all(0 < row["percent_of_ideal"] <= 100 for row in rows[2:])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_memory_of_a_block_worker_does_not_grow_with_the_blocks_as_the_baselines_does(capsys):
    growth = run_bench(capsys, "memory", "--preset", "digits", "--steps", "2", "--repeats", "1")["growth"]
    assert growth["block_worker"] < 1.05
    assert growth["baseline"] > growth["block_worker"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_accuracy_measures_noprop_against_back_propagation(capsys):
    small = ("--steps", "60", "--every", "20", "--repeats", "1", "--target", "0.5", "--set", "blocks.count=3")
    rows = run_bench(capsys, "accuracy", *small)["rows"]
    assert [row["method"] for row in rows] == ["noprop", "backprop"]
    assert all(row["final_percent"] > 10 for row in rows)
