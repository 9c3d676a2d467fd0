"""Several processes for each block: groups are formed, lost and formed again, and other blocks take no notice."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import ray
import torch

from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.replica_worker import BlockGroup
from noprop_dist.engines.sequential import train_sequentially
from noprop_dist.records import RoundDone, WorkerLost, WorkerReady
from noprop_dist.stages import block
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.messages import RoundReport
from noprop_dist.training.replicas import GroupLostError
from noprop_dist.training.setup import prepare

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.slow]

DIGITS = ["blocks.count=2", "training.max_steps=48", "checkpoint.every_steps=48", "checkpoint.snapshot_every_steps=16",
          "metrics.port=null", "engine.device=cpu"]  # fmt: skip
REPLICAS = "training.replicas_per_block=2"


def weights(directory):
    snapshots = RunDirectory(str(directory)).checkpoints.load_all(48)
    return {(stage, name): array for stage, each in snapshots.items() for name, array in each.weights.items()}


def fingerprints(directory):
    return [entry.sha256 for entry in RunDirectory(str(directory)).checkpoints.manifest().stages]


@pytest.fixture(scope="module")
def undisturbed(ray_here, tmp_path_factory):
    from noprop_dist.engines.ray.coordinator import Coordinator

    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    Coordinator(load_config("digits", None, [*DIGITS, REPLICAS, "engine.workers=1"]), str(folder)).run()
    return folder


def test_replicas_train_what_one_process_trains_up_to_the_order_of_sums(undisturbed, tmp_path):
    setup, data = prepare(load_config("digits", None, [*DIGITS, "engine.kind=sequential"]))
    directory = RunDirectory(str(tmp_path / "sequential"))
    directory.create(setup.config, setup.plan.facts)
    train_sequentially(setup, data, directory, lambda _: None)
    ours, expected = weights(undisturbed), weights(tmp_path / "sequential")
    assert ours.keys() == expected.keys()
    apart = np.sqrt(sum(((ours[key] - expected[key]) ** 2).sum() for key in expected))
    moved = np.sqrt(sum((expected[key] ** 2).sum() for key in expected))
    assert apart < 0.02 * moved


def test_neither_placement_nor_rounds_nor_who_draws_change_a_bit(undisturbed, run_here, tmp_path):
    engine = ["engine.workers=2", "engine.round_steps=5", "engine.sampling=worker"]
    run_here(load_config("digits", None, [*DIGITS, REPLICAS, *engine]), str(tmp_path / "run"))
    assert fingerprints(tmp_path / "run") == fingerprints(undisturbed)


@pytest.mark.parametrize("victim", ["leader", "replica"])
def test_a_group_that_loses_a_process_is_formed_again_and_ends_with_the_same_bits(
    undisturbed, run_here, tmp_path, victim
):
    killed = []

    def kill():
        run, deadline = RunDirectory(str(tmp_path / "run")), time.monotonic() + 100
        while time.monotonic() < deadline and not killed:
            time.sleep(0.05)
            records = run.metrics()
            if any(isinstance(r, RoundDone) and r.stage == block(1) for r in records):
                facts = next(r for r in records if isinstance(r, WorkerReady) and r.worker == "block worker 1")
                killed.append(facts.pid if victim == "leader" else facts.replica_pids[0])
                os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    longer = ["engine.workers=1", "engine.round_steps=2"]
    run_here(load_config("digits", None, [*DIGITS, REPLICAS, *longer]), str(tmp_path / "run"))
    thread.join()
    lost = [r for r in RunDirectory(str(tmp_path / "run")).metrics() if isinstance(r, WorkerLost)]
    assert killed
    assert [r.worker for r in lost] == ["block worker 1"]
    assert fingerprints(tmp_path / "run") == fingerprints(undisturbed)


def test_a_leader_answers_for_its_group_as_a_worker_does(ray_here):
    """In the test's own process, where it can be seen."""
    setup, data = prepare(load_config("digits", None, [*DIGITS, REPLICAS]))
    leader = BlockGroup(setup, [ray.put(data.train.inputs), ray.put(data.train.labels)], {"num_cpus": 0})
    try:
        assert len(leader.facts().replica_pids) == 1
        assert leader.hold(block(1), None) is None
        report = leader.train(RoundKey(block(1), 0, 3))
        assert isinstance(report, RoundReport)
        snapshot = leader.snapshot(block(1))
        assert leader.hold(block(1), snapshot) is None
        assert isinstance(leader.train(RoundKey(block(1), 3, 2)), RoundReport)
        leader.stop()
        assert leader.train(RoundKey(block(1), 5, 2)) is None
        leader.release(block(1))
        ray.kill(leader._others[0])
        with pytest.raises(GroupLostError, match="a replica was lost"):
            leader.hold(block(1), None)
    finally:
        torch.distributed.destroy_process_group()
