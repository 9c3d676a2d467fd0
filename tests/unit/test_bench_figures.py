"""What the benchmarks make of records and turns, before anything is measured."""

from math import inf

import pytest

from noprop_dist.bench.accuracy import Reached, until
from noprop_dist.bench.harness import SideRow, Spread, alternate, columns
from noprop_dist.bench.idle import NoopWorker, SleepingWorker
from noprop_dist.bench.rates import RoundTime, block_rate, rate
from noprop_dist.bench.snapshots import SnapshotCost
from noprop_dist.bench.straggler import MemorySample, summary
from noprop_dist.cli.app import main
from noprop_dist.errors import UserError
from noprop_dist.records import Evaluated, News, RoundDone
from noprop_dist.stages import CLASSIFIER, block
from noprop_dist.training.batch_stream import RoundKey


def test_sides_are_measured_in_turns_and_warm_ups_are_not_counted():
    order, lines = [], []

    def side(name):
        def measure(turn):
            order.append((name, turn))
            return 10.0 * turn

        return measure

    figures = alternate({"a": side("a"), "b": side("b")}, 2, lines.append, "{} steps/s".format, str.upper, warm_ups=1)
    assert order == [(name, turn) for turn in (0, 1, 2) for name in ("a", "b")]
    assert figures == {"a": [10.0, 20.0], "b": [10.0, 20.0]}
    assert lines[0] == "warm-up, A: 0.0 steps/s"
    assert lines[-1] == "turn 2 of 2, B: 20.0 steps/s"


def test_a_row_shows_the_spread_of_a_sides_turns():
    assert columns(SideRow("a", Spread([3.0, 1.0, 8.0]))) == {
        "side": "a", "median": 3.0, "least": 1.0, "most": 8.0, "turns": [3.0, 1.0, 8.0],
    }  # fmt: skip


def test_the_rate_counts_the_time_when_all_processes_were_at_work():
    fast = [RoundTime(0, 10 + second, 5) for second in range(1, 9)]  # done at 18
    late = [RoundTime(1, 14 + second, 5) for second in range(1, 9)]  # a quarter done at 17
    assert rate(fast + late) == pytest.approx(10.0)
    assert rate(fast) == pytest.approx(5.0)


def test_a_turn_in_which_the_processes_never_met_has_no_rate():
    early, late = ([RoundTime(process, begun + k, 5) for k in range(8)] for process, begun in ((0, 0), (1, 20)))
    with pytest.raises(UserError, match="--steps: too few"):
        rate(early + late)


def trained(stage, step, time, steps=10):
    return RoundDone(stage=stage, first_step=step - steps, steps=steps, step=step, loss=0.1, error=0.1,
                     gradient_norm=1.0, seconds=1.0, time=time)  # fmt: skip


def test_the_rate_of_a_run_is_that_of_its_blocks_by_the_processes_that_trained_them():
    records = [record for second in range(1, 9) for record in (
        trained(block(1), 10 * second, 10 + second),
        trained(block(2), 10 * second, 10 + second),
        trained(CLASSIFIER, 10 * second, 100 + second),
        News(text="a line", time=50.0),
    )]  # fmt: skip
    assert block_rate(records, [(1,), (2,)]) == pytest.approx(20.0)


def test_what_a_snapshot_costs_follows_from_a_dense_cadence():
    # Two workers, 0.1 s a step; a snapshot every 10 steps takes 0.2 s: 10 steps take 1.2 s in place of 1 s.
    cost = SnapshotCost(10, with_snapshots=Spread([2 * 10 / 1.2]), without=Spread([2 * 10 / 1.0]), workers=2)
    assert cost.seconds == pytest.approx(0.2)
    assert cost.share(10) == pytest.approx(0.2 / 1.2)
    assert cost.share(100) == pytest.approx(0.2 / 10.2)


def test_memory_is_summed_up_by_its_peaks():
    samples = [MemorySample(float(k), k * 2**20, 2**20, 10 * k, k) for k in range(10)]
    rows = summary(samples)
    assert [row.coordinator_mib for row in rows] == [1, 3, 5, 7, 9]
    assert (rows[-1].fastest_step, rows[-1].slowest_step) == (90, 9)


def test_seconds_to_an_accuracy_end_when_the_last_stage_has_come_to_the_step():
    def measured(step, accuracy):
        return Evaluated(step=step, final=step == 30, split="test", accuracy=accuracy, nearest_embedding_accuracy=0.5,
                         sampler="mean", passes=1, samples=100)  # fmt: skip

    rounds = [trained(block(1), 10, 1.0), trained(block(1), 20, 2.0), trained(block(1), 30, 3.0),
              trained(block(2), 10, 2.5), trained(block(2), 20, 4.0), trained(block(2), 30, 9.0)]  # fmt: skip
    records = [*rounds, measured(10, 0.5), measured(20, 0.98), measured(30, 0.97)]
    assert until(0.98, records) == Reached(4.0, 20, 0.97)
    assert until(0.99, records) == Reached(inf, inf, 0.97)


def test_idle_workers_answer_as_workers_do_and_take_their_time():
    worker = SleepingWorker("setup", "inputs", "labels")
    worker.hold(block(3), None)
    report = worker.train(RoundKey(block(3), 0, 2))
    assert (report.stage, report.steps_done) == (block(3), 2)
    assert report.seconds >= 2 * worker.step_seconds
    assert worker.snapshot(block(3)).step == 2
    assert worker.facts().device == "cpu"
    worker.stop()
    worker.release(block(3))
    assert NoopWorker.step_seconds == 0


def test_a_side_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", "dispatch", "--sampling", "driver"])
    assert end.value.code == 2
    assert "--sampling driver: allowed are worker and coordinator" in capsys.readouterr().err
