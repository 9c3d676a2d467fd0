"""Each kind of fault at least once, on a real cluster of several nodes: the same bits, and no step lost."""

import pytest

from noprop_dist.bench.fault_kinds import FULL_DISK, KINDS, may_mount
from noprop_dist.bench.faults import bench_faults, plan_faults


def test_a_campaign_is_planned_by_its_seed_and_every_kind_has_its_turn():
    plan = plan_faults(30, seed=3)
    assert plan == plan_faults(30, seed=3)
    assert plan != plan_faults(30, seed=4)
    counts = [sum(fault.kind is kind for fault in plan) for kind in KINDS]
    assert sum(counts) == 30
    assert max(counts) - min(counts) <= 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_kind_of_fault_leaves_the_bits_and_the_steps_as_they_would_have_been(tmp_path):
    kinds = [kind.name for kind in KINDS if kind.name != FULL_DISK or may_mount()]
    rows = bench_faults(len(kinds), seed=1, steps=1500, folder=tmp_path, say=print)
    assert [row.fault for row in rows] == kinds
    for row in rows:
        assert (row.injected, row.recovered, row.lost_steps, row.equal_fingerprints) == (1, 1, 0, True), row
