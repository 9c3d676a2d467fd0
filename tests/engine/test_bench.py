"""The benchmarks measure what they say: both sides in one run, while all processes are at work."""

import json

import pytest

from noprop_dist.bench.accuracy import until
from noprop_dist.bench.idle_workers import NoopWorker, SleepingWorker
from noprop_dist.bench.rates import RoundTime, rate
from noprop_dist.bench.snapshots import SnapshotCost
from noprop_dist.bench.straggler import MemorySample, summary
from noprop_dist.cli.app import main
from noprop_dist.errors import UserError
from noprop_dist.training.batch_stream import RoundKey


def run_bench(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments, "--json"])
    assert end.value.code == 0
    return json.loads(capsys.readouterr().out)


def test_the_rate_counts_the_time_when_all_processes_were_at_work():
    fast = [RoundTime(0, 10 + second, 5) for second in range(1, 9)]  # done at 18
    late = [RoundTime(1, 14 + second, 5) for second in range(1, 9)]  # a quarter done at 17
    assert rate(fast + late) == pytest.approx(10.0)
    assert rate(fast) == pytest.approx(5.0)


def test_a_turn_in_which_the_processes_never_met_has_no_rate():
    early, late = ([RoundTime(process, begun + k, 5) for k in range(8)] for process, begun in ((0, 0), (1, 20)))
    with pytest.raises(UserError, match="--steps: too few"):
        rate(early + late)


def test_what_a_snapshot_costs_follows_from_a_dense_cadence():
    # Two workers, 0.1 s a step; a snapshot every 10 steps takes 0.2 s: 10 steps take 1.2 s in place of 1 s.
    cost = SnapshotCost(10, with_snapshots=[2 * 10 / 1.2], without=[2 * 10 / 1.0], workers=2)
    assert cost.seconds == pytest.approx(0.2)
    assert cost.share(10) == pytest.approx(0.2 / 1.2)
    assert cost.share(100) == pytest.approx(0.2 / 10.2)


def test_memory_is_summed_up_by_its_peaks():
    samples = [MemorySample(float(k), k * 2**20, 2**20, 10 * k, k) for k in range(10)]
    rows = summary(samples)
    assert [row["coordinator_mib"] for row in rows] == [1, 3, 5, 7, 9]
    assert (rows[-1]["fastest_step"], rows[-1]["slowest_step"]) == (90, 9)


def test_seconds_to_an_accuracy_end_when_the_last_stage_has_come_to_the_step():
    def trained(stage, step, time):
        return {"kind": "round", "stage": stage, "step": step, "time": time, "seconds": 1.0}

    def measured(step, accuracy):
        return {"kind": "evaluation", "split": "test", "sampler": "mean", "step": step, "accuracy": accuracy}

    rounds = [trained("block 1", 10, 1.0), trained("block 1", 20, 2.0), trained("block 1", 30, 3.0),
              trained("block 2", 10, 2.5), trained("block 2", 20, 4.0), trained("block 2", 30, 9.0)]  # fmt: skip
    records = [*rounds, measured(10, 0.5), measured(20, 0.98), measured(30, 0.97)]
    assert until(0.98, records) == (4.0, 20, 0.97)
    assert until(0.99, records) == (None, None, 0.97)


def test_idle_workers_answer_as_workers_do_and_take_their_time():
    worker = SleepingWorker("setup", "inputs", "labels")
    worker.hold(3, None)
    report = worker.train(RoundKey(3, 0, 2))
    assert (report.stage, report.steps_done) == (3, 2)
    assert report.seconds >= 2 * worker.step_seconds
    assert worker.snapshot(3).step == 2
    assert worker.facts().device == "cpu"
    worker.stop()
    worker.release(3)
    assert NoopWorker.step_seconds == 0


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


def test_a_side_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", "dispatch", "--sampling", "driver"])
    assert end.value.code == 2
    assert "--sampling driver: allowed are worker and coordinator" in capsys.readouterr().err
