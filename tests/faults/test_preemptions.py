"""Nodes are preempted with notice and without, and replaced: no failure budget is spent, and no notice is wasted."""

import pytest

from noprop_dist.bench import preemptions
from noprop_dist.bench.preemptions import WITH_NOTICE, WITHOUT_NOTICE, bench_preemptions, summary


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_preempted_nodes_cost_no_failure_budget_and_no_step_after_a_notice(monkeypatch, tmp_path):
    monkeypatch.setattr(preemptions, "BLOCKS", 3)
    monkeypatch.setattr(preemptions, "TURNS", ("coordinator", "block worker"))
    done = bench_preemptions(4, seed=0, every=15.0, steps=300, settings=[], folder=tmp_path, say=print)
    rows = {row.sort: row for row in summary(done)}
    for sort in (WITH_NOTICE, WITHOUT_NOTICE):
        assert (rows[sort].charged, rows[sort].equal) == (0, True), rows[sort]
    assert rows[WITH_NOTICE].steps_lost == 0
    assert sum(row.coordinator for row in rows.values()) > 0
    assert sum(row.preempted for row in rows.values()) == 4
