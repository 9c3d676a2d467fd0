"""Several processes for each block: groups are formed, lost and formed again, and other blocks take no notice."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import ray
import torch
from run_facts import fingerprints, records_of, rounds_of, steps_written

from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.replica_worker import BlockGroup
from noprop_dist.records import WorkerLost, WorkerReady
from noprop_dist.stages import block
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.messages import RoundReport
from noprop_dist.training.replicas import GroupLostError
from noprop_dist.training.setup import prepare

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.slow]

STEPS = 160
DIGITS = ["blocks.count=2", f"training.max_steps={STEPS}", f"checkpoint.every_steps={STEPS}", "metrics.port=null",
          "checkpoint.snapshot_every_steps=16", "engine.device=cpu", "evaluation.samples=0"]  # fmt: skip
REPLICAS = "training.replicas_per_block=2"


def weights(folder):
    snapshots = RunDirectory(str(folder)).checkpoints.load_all(STEPS)
    return {(stage, name): array for stage, each in snapshots.items() for name, array in each.weights.items()}


@pytest.fixture(scope="module")
def undisturbed(ray_here, tmp_path_factory):
    from noprop_dist.engines.ray.coordinator import Coordinator

    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    Coordinator(load_config("digits", None, [*DIGITS, REPLICAS, "engine.workers=1"]), str(folder)).run()
    return folder


def test_replicas_train_what_one_process_trains_up_to_the_order_of_sums(undisturbed, sequential):
    ours, expected = weights(undisturbed), weights(sequential(*DIGITS))
    assert ours.keys() == expected.keys()
    apart = np.sqrt(sum(((ours[key] - expected[key]) ** 2).sum() for key in expected))
    moved = np.sqrt(sum((expected[key] ** 2).sum() for key in expected))
    assert apart < 0.02 * moved


def test_neither_placement_nor_who_draws_nor_the_loss_of_a_replica_and_of_a_leader_change_a_bit(
    undisturbed, run_here, tmp_path
):
    """Of two groups, a replica of the first is killed, and once that group is formed again, its leader."""
    killed = []

    def kill_one_after_the_other():
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and len(killed) < 2:
            time.sleep(0.05)
            groups = [r for r in records_of(tmp_path / "run", WorkerReady) if r.worker == "block worker 1"]
            if len(groups) > len(killed) and rounds_since(tmp_path / "run", groups[-1].time):
                killed.append(groups[-1].pid if killed else groups[-1].replica_pids[0])
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill_one_after_the_other)
    thread.start()
    engine = ["engine.workers=2", "engine.round_steps=1", "engine.sampling=worker"]
    run_here(load_config("digits", None, [*DIGITS, REPLICAS, *engine]), str(tmp_path / "run"))
    thread.join()
    assert len(killed) == 2
    assert [r.worker for r in records_of(tmp_path / "run", WorkerLost)] == ["block worker 1", "block worker 1"]
    assert fingerprints(tmp_path / "run") == fingerprints(undisturbed)
    assert set(steps_written(tmp_path / "run").values()) == {STEPS}, "nothing is counted twice"


def rounds_since(folder, time):
    return [each for each in rounds_of(folder, block(1)) if each.time > time]


def test_a_leader_answers_for_its_group_as_a_worker_does(ray_here):
    """In the test's own process, where it can be seen."""
    setup, data = prepare(load_config("digits", None, [*DIGITS, REPLICAS]))
    leader = BlockGroup(setup, [ray.put(data.train.inputs), ray.put(data.train.labels)], {"num_cpus": 0})
    try:
        (replica,) = leader.facts().replica_pids
        assert leader.hold(block(1), None) is None
        report = leader.train(RoundKey(block(1), 0, 3))
        assert isinstance(report, RoundReport)
        snapshot = leader.snapshot(block(1))
        assert leader.hold(block(1), snapshot) is None
        assert isinstance(leader.train(RoundKey(block(1), 3, 2)), RoundReport)
        leader.stop()
        assert leader.train(RoundKey(block(1), 5, 2)) is None
        leader.release(block(1))
        os.kill(replica, signal.SIGKILL)
        with pytest.raises(GroupLostError, match="a replica was lost"):
            leader.hold(block(1), None)
    finally:
        torch.distributed.destroy_process_group()
