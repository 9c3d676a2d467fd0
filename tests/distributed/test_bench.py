"""The benchmark measures what it says: the same block-steps on both sides, while all processes are at work."""

import json

import pytest

from noprop_dist.bench.overhead import RoundTime, rate
from noprop_dist.cli.app import main


def test_the_rate_counts_the_time_when_all_processes_were_at_work():
    fast = [RoundTime(0, 10 + second, 5) for second in range(1, 9)]  # done at 18
    late = [RoundTime(1, 14 + second, 5) for second in range(1, 9)]  # a quarter done at 17
    assert rate(fast + late) == pytest.approx(10.0)
    assert rate(fast) == pytest.approx(5.0)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_overhead_compares_both_sides_in_one_run(capsys):
    small = ["--set", "blocks.count=2", "--steps", "160", "--repeats", "1", "--json"]
    with pytest.raises(SystemExit) as end:
        main(["bench", "overhead", *small])
    assert end.value.code == 0
    result = json.loads(capsys.readouterr().out)
    sides = {row["side"]: row for row in result["rows"]}
    assert set(sides) == {"Ray engine", "bare processes"}
    assert all(row["least"] <= row["median"] <= row["most"] for row in result["rows"])
    assert result["ratio"] == sides["Ray engine"]["median"] / sides["bare processes"]["median"]
