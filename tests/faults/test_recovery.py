"""Nodes that come and go, and a process that is stuck; `tests/simulation` has all else that is decided about losses."""

import pytest
from run_facts import fingerprints, records_of, rounds_of, steps_written

from noprop_dist.records import News, RoundDone, WorkerLost
from noprop_dist.stages import block

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("importable")]


def test_a_block_moves_onto_a_node_that_joins_and_then_off_a_node_that_leaves(live, cluster, sequential, tmp_path):
    slow = tmp_path / "slow"
    network = f"{{kind: custom, path: 'networks:Slow', arguments: {{seconds: 0.04, while_there: '{slow}'}}}}"
    settings = ["evaluation.samples=0", "metrics.port=null", "blocks.count=2", f"blocks.network={network}",
                "training.max_steps=900", "checkpoint.snapshot_every_steps=32"]  # fmt: skip
    expected = fingerprints(sequential(*settings))
    slow.touch()
    run = live(settings)
    run.wait_for("the first worker's first rounds", lambda: len(run.records(RoundDone)) > 4)
    cluster.add_node()

    def news():
        return [each.text for each in run.records(News)]

    run.wait_for("a move", lambda: any("moves from block worker 1 to block worker 2" in line for line in news()))
    moved = next(block(t) for t in (1, 2) if any(line.startswith(f"block {t} moves from") for line in news()))
    reached = rounds_of(run.folder, moved)[-1].step
    run.wait_for("rounds after it", lambda: rounds_of(run.folder, moved)[-1].step > reached + 32)
    cluster.drain_node(1, seconds=60)
    run.wait_for("the worker to leave", lambda: any("its node is leaving" in r.cause for r in run.records(WorkerLost)))
    slow.unlink()
    run.finish()
    assert fingerprints(run.folder) == expected
    assert any("the cluster has grown: 2 block(s) on 2 worker(s)" in line for line in news())
    assert set(steps_written(run.folder).values()) == {900}
    assert [each.reason for each in records_of(run.folder, WorkerLost)] == ["node_leaving"]


def test_a_process_that_is_stuck_in_its_first_round_is_replaced(live, sequential, tmp_path):
    flag = tmp_path / "flag"
    network = f"{{kind: custom, path: 'networks:StuckOnce', arguments: {{unless_there: '{flag}'}}}}"
    settings = ["evaluation.samples=0", "metrics.port=null", "blocks.count=2", f"blocks.network={network}",
                "training.max_steps=40", "engine.hang_seconds=3"]  # fmt: skip
    flag.touch()
    expected = fingerprints(sequential(*settings))
    flag.unlink()
    run = live(settings)
    run.finish()
    assert fingerprints(run.folder) == expected
    assert [(each.worker, each.reason) for each in run.records(WorkerLost)] == [("block worker 1", "hung")]
