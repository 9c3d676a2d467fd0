"""The signature of the project: the Ray engine's weights have the same bits as the sequential engine's."""

import threading

import pytest
import ray
from run_facts import fingerprints, steps_written

from noprop_dist.api import train
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.coordinator import Coordinator
from noprop_dist.engines.ray.driver import train_on_ray
from noprop_dist.storage.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("ray_here")

# The digits preset, shortened; one block has the paper's network, for its dropout.
DIGITS = ["training.max_steps=24", "checkpoint.every_steps=20", "blocks.networks.3={kind: paper}", "metrics.port=null",
          "engine.device=cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """Fingerprints of the sequential engine at both checkpoints."""
    directory = tmp_path_factory.mktemp("oracle") / "run"
    train(load_config("digits", None, [*DIGITS, "engine.kind=sequential"]), str(directory))
    return [fingerprints(directory, step) for step in (20, 24)]


@pytest.mark.slow
@pytest.mark.parametrize("round_steps", [1, 7, 32])
@pytest.mark.parametrize("workers", [1, 2, 5, 10])
def test_placement_rounds_and_prefetch_change_no_bit(oracle, run_here, tmp_path, workers, round_steps):
    prefetch = 1 if (workers + round_steps) % 2 else 3
    sampling = "worker" if workers in (2, 10) and round_steps == 32 else "coordinator"
    engine = [f"engine.workers={workers}", f"engine.round_steps={round_steps}", f"engine.prefetch={prefetch}",
              f"engine.sampling={sampling}"]  # fmt: skip
    outcome = run_here(load_config("digits", None, [*DIGITS, *engine]), str(tmp_path / "run"))
    assert [fingerprints(tmp_path / "run", step) for step in (20, 24)] == oracle
    assert outcome.step == 24
    assert outcome.evaluation.final


@pytest.mark.slow
def test_blocks_that_a_worker_trains_at_the_same_time_get_the_same_bits(oracle, run_here, tmp_path):
    engine = ["engine.workers=2", "engine.blocks_at_once=3", "engine.round_steps=2", "engine.sampling=worker"]
    run_here(load_config("digits", None, [*DIGITS, *engine]), str(tmp_path / "run"))
    assert [fingerprints(tmp_path / "run", step) for step in (20, 24)] == oracle


@pytest.mark.slow
def test_two_runs_at_once_on_one_cluster_do_not_meet(oracle, tmp_path):
    """Each through its own driver and coordinator actor, one worker each; one with another seed."""
    seen = []

    def run(name, *settings):
        train_on_ray(
            load_config("digits", None, [*DIGITS, "engine.workers=1", *settings]), str(tmp_path / name), seen.append
        )

    threads = [
        threading.Thread(target=run, args=("same",)),
        threading.Thread(target=run, args=("other", "seed=1", "metrics.port=0")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=200)
    assert fingerprints(tmp_path / "same") == oracle[1]
    assert not set(fingerprints(tmp_path / "other").values()) & set(oracle[1].values())
    assert seen[-1].fraction > 0
    assert len(seen[-1].stages) == 11


@pytest.mark.slow
def test_a_run_resumed_on_other_workers_ends_with_the_same_bits(oracle, run_here, tmp_path):
    """The first run is stopped by the loss of its coordinator's process, after its first checkpoint."""
    directory = RunDirectory(str(tmp_path / "run"))
    config = load_config("digits", None, [*DIGITS, "engine.round_steps=1"])
    coordinator = ray.remote(Coordinator).options(num_cpus=0).remote(config, str(directory))
    run = coordinator.run.remote()
    for _ in range(600):
        ray.wait([run], timeout=0.1)
        if directory.checkpoints.steps():
            break
    ray.kill(coordinator)
    assert 20 in directory.checkpoints.steps()
    resumed = load_config("digits", None, [*DIGITS, "engine.workers=5"])
    run_here(resumed, str(directory), resume=True)
    assert fingerprints(directory) == oracle[1]
    assert set(steps_written(directory).values()) == {24}, "nothing is counted twice"
    again = run_here(resumed, str(directory), resume=True)
    assert (again.step, again.evaluation) == (24, None), "a finished run stays as it is"
