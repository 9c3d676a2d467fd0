"""Nodes that come and go, budgets that are spent, blocks that are slow or many: on a real cluster."""

import pytest

from noprop_dist.bench.fault_kinds import signal_worker
from noprop_dist.bench.faults import fingerprints
from noprop_dist.records import News, RoundDone, WorkerLost, WorkerReady
from noprop_dist.stages import block

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

QUIET = ["evaluation.samples=0", "metrics.port=null", "blocks.count=2"]


def slow(seconds):
    return f"blocks.network={{kind: custom, path: 'networks:Slow', arguments: {{seconds: {seconds}}}}}"


def news(run):
    return [each.text for each in run.records(News)]


def rounds_of(run, stage):
    return [each for each in run.records(RoundDone) if each.stage == stage]


def test_a_block_moves_onto_a_node_that_joins_and_then_off_a_node_that_leaves(live, cluster, undisturbed):
    settings = [*QUIET, slow(0.04), "training.max_steps=900", "checkpoint.snapshot_every_steps=32"]
    run = live(settings)
    run.wait_for("the first worker's first rounds", lambda: len(run.records(RoundDone)) > 4)
    cluster.add_node()
    run.wait_for("a move", lambda: any("moves from block worker 1 to block worker 2" in line for line in news(run)))
    moved = next(block(t) for t in (1, 2) if any(line.startswith(f"block {t} moves from") for line in news(run)))
    reached = rounds_of(run, moved)[-1].step
    run.wait_for("rounds after it", lambda: rounds_of(run, moved)[-1].step > reached + 32)
    cluster.drain_node(1, seconds=60)
    run.wait_for("the worker to leave", lambda: any("its node is leaving" in r.cause for r in run.records(WorkerLost)))
    run.finish()
    assert fingerprints(run.directory) == undisturbed([*QUIET, slow(0), *settings[-2:]])
    assert any("the cluster has grown: 2 block(s) on 2 worker(s)" in line for line in news(run))
    assert sum(each.steps for each in rounds_of(run, moved)) == 900


def test_a_block_that_has_spent_its_budget_is_named_and_the_others_are_trained_to_the_end(live):
    kills = "blocks.networks.2={kind: custom, path: 'networks:KillsItsWorker', arguments: {step: 3}}"
    run = live([*QUIET, "blocks.network={kind: custom, path: 'networks:Plain'}", kills, "engine.max_failures=1",
                "training.max_steps=200"])  # fmt: skip
    assert run.ended() == 1
    log = run.log()
    assert "not trained to the end: block 2 (2 workers were lost while at work on it" in log
    assert "engine.max_failures=1 are allowed" in log
    saved = run.directory.checkpoints.saved_steps()
    assert (saved["block-01"][-1], saved["classifier"][-1]) == (200, 200)
    assert "block-02" not in saved
    assert [each.at_work_on for each in run.records(WorkerLost)].count(block(2)) == 2


def test_a_hundred_blocks_on_one_core_in_waves_have_the_bits_of_the_sequential_engine(live, undisturbed):
    settings = ["evaluation.samples=0", "metrics.port=null", "blocks.count=100", "training.max_steps=40",
                "blocks.network={kind: mlp, width: 16, depth: 1}"]  # fmt: skip
    run = live([*settings, "engine.blocks_per_worker=7"])
    run.finish()
    assert fingerprints(run.directory) == undisturbed(settings)
    assert {each.worker for each in run.records(WorkerReady)} >= {"coordinator", "block worker 1"}


def test_blocks_that_are_trained_at_the_same_time_are_all_recovered_with_their_worker(live, undisturbed):
    settings = ["evaluation.samples=0", "metrics.port=null", "blocks.count=4", "training.max_steps=400",
                "checkpoint.snapshot_every_steps=16", "blocks.networks.2={kind: paper}"]  # fmt: skip
    run = live([*settings, "engine.blocks_at_once=3", "engine.round_steps=4"])
    for rounds in (20, 120):
        run.wait_for("some rounds", lambda number=rounds: len(run.records(RoundDone)) > number)
        signal_worker(run, "block worker 1")
    run.finish()
    assert len(run.records(WorkerLost)) == 2
    assert fingerprints(run.directory) == undisturbed(settings)
    for t in (1, 2, 3, 4):
        assert sum(each.steps for each in rounds_of(run, block(t))) == 400
