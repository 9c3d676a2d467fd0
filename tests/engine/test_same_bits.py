"""The signature of the project on a real Ray: its weights have the same bits as the sequential engine's.

`tests/simulation/test_real_training.py` has more placements, and all that can be lost, without Ray.
"""

import os
import signal
import threading
import time

import pytest
from run_facts import fingerprints, records_of, rounds_of, steps_written

from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.driver import train_on_ray
from noprop_dist.records import WorkerLost, WorkerReady
from noprop_dist.stages import EMBEDDING

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_here")]

# The digits preset, shortened; one block has the paper's network, for its dropout.
DIGITS = ["blocks.count=4", "training.max_steps=24", "checkpoint.every_steps=20", "blocks.networks.3={kind: paper}",
          "metrics.port=null", "engine.device=cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def oracle(sequential):
    """The run directory of the sequential engine."""
    return sequential(*DIGITS)


def test_rounds_that_the_coordinator_draws_give_the_same_bits_on_two_workers(oracle, run_here, tmp_path):
    engine = ["engine.workers=2", "engine.round_steps=7", "engine.prefetch=3", "engine.sampling=coordinator"]
    outcome = run_here(load_config("digits", None, [*DIGITS, *engine]), str(tmp_path / "run"))
    for step in (20, 24):
        assert fingerprints(tmp_path / "run", step) == fingerprints(oracle, step)
    assert outcome.step == 24
    assert outcome.evaluation.final
    assert set(steps_written(tmp_path / "run").values()) == {24}


def test_rounds_that_a_worker_draws_in_several_lanes_give_the_same_bits(oracle, run_here, tmp_path):
    engine = ["engine.workers=1", "engine.blocks_at_once=3", "engine.round_steps=2", "engine.sampling=worker"]
    run_here(load_config("digits", None, [*DIGITS, *engine, "evaluation.samples=0"]), str(tmp_path / "run"))
    assert fingerprints(tmp_path / "run") == fingerprints(oracle)


def test_two_runs_at_once_on_one_cluster_do_not_meet(oracle, tmp_path):
    """Each through its own driver and coordinator actor, one worker each; one with another seed."""
    seen = []

    def run(name, *settings):
        config = load_config("digits", None, [*DIGITS, "engine.workers=1", *settings])
        train_on_ray(config, str(tmp_path / name), seen.append)

    threads = [
        threading.Thread(target=run, args=("same", "evaluation.samples=0")),
        threading.Thread(target=run, args=("other", "evaluation.samples=0", "seed=1", "metrics.port=0")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=200)
    assert fingerprints(tmp_path / "same") == fingerprints(oracle)
    assert not set(fingerprints(tmp_path / "other").values()) & set(fingerprints(oracle).values())
    assert seen[-1].fraction > 0
    assert len(seen[-1].stages) == 5


def run_and_kill(run_here, folder, settings, victim):
    """Train, and kill the process of a worker once a stage has done 40 steps."""
    killed = []

    def kill():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not killed:
            time.sleep(0.05)
            if any(each.step >= 40 for each in rounds_of(folder)):
                ready = records_of(folder, WorkerReady)
                killed.append(next(each.pid for each in ready if each.worker.startswith(victim)))
                os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    run_here(load_config("digits", None, settings), str(folder))
    thread.join()


def test_the_owner_of_a_learned_w_embed_is_killed_on_the_way_and_no_bit_changes(sequential, run_here, tmp_path):
    settings = [*DIGITS, "embedding={kind: learned, sync_steps: 4}", "training.max_steps=200",
                "checkpoint.every_steps=200", "checkpoint.snapshot_every_steps=16", "evaluation.samples=0"]  # fmt: skip
    run_and_kill(run_here, tmp_path / "run", [*settings, "engine.workers=2"], "classifier worker")
    assert [each.worker for each in records_of(tmp_path / "run", WorkerLost)] == ["classifier worker"]
    assert set(steps_written(tmp_path / "run").values()) == {200}, "nothing is counted twice"
    ours = fingerprints(tmp_path / "run")
    assert EMBEDDING in ours
    assert ours == fingerprints(sequential(*settings))


RANGES = [*DIGITS, "blocks.noise={kind: range}", "evaluation.samples=0"]
NETWORKS = {"small-conv": [], "vit": ["blocks.network={kind: vit, stack: 4, width: 32}"]}
LONGER = ["training.max_steps=200", "checkpoint.every_steps=200", "checkpoint.snapshot_every_steps=16"]


@pytest.fixture(scope="module", params=NETWORKS)
def ranges(request):
    """Settings of blocks that own ranges of noise levels."""
    return [*RANGES, *NETWORKS[request.param]]


@pytest.fixture(scope="module")
def range_oracle(sequential, ranges):
    return sequential(*ranges)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_blocks_that_own_ranges_of_noise_have_the_same_bits_on_any_number_of_workers(
    range_oracle, ranges, run_here, tmp_path, workers
):
    settings = [*ranges, f"engine.workers={workers}", "engine.round_steps=7"]
    run_here(load_config("digits", None, settings), str(tmp_path / "run"))
    assert fingerprints(tmp_path / "run") == fingerprints(range_oracle)


def test_a_worker_of_blocks_that_own_ranges_is_killed_and_no_bit_changes(sequential, ranges, run_here, tmp_path):
    run_and_kill(run_here, tmp_path / "run", [*ranges, *LONGER, "engine.workers=2"], "block worker")
    assert len(records_of(tmp_path / "run", WorkerLost)) == 1
    assert fingerprints(tmp_path / "run") == fingerprints(sequential(*ranges, *LONGER))
