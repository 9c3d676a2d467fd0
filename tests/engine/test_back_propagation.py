"""The back-propagation baseline by Ray Train: trains, is stopped and resumed, and has the bits of a plain loop."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from urllib.request import urlopen

import numpy as np
import pytest
import ray
import torch
from run_facts import fingerprints, rounds_of, steps_written

from noprop_dist.baseline.coordinator import EndToEndCoordinator
from noprop_dist.baseline.trainer import end_to_end_trainer
from noprop_dist.config.bits import continued
from noprop_dist.config.layers import load_config
from noprop_dist.errors import TrainingError
from noprop_dist.stages import NETWORK
from noprop_dist.storage.run_directory import RAY_TRAIN_FOLDER, RunDirectory
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.progress import RunProgress
from noprop_dist.training.replicas import ALONE
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_here")]

STEPS = 240
DIGITS = ["method=backprop", "blocks.count=3", "engine.device=cpu", "checkpoint.every_steps=80",
          "checkpoint.snapshot_every_steps=20"]  # fmt: skip


def plain_loop(*settings):
    """The network's snapshots at the beginning and at the end of a loop in this process."""
    setup, data = prepare(load_config("digits", None, [*DIGITS, *settings]))
    cpu = torch.device("cpu")
    samples, batches = setup.training_samples(data.train.inputs, cpu), setup.batch_stream(data.train.labels)
    trainer = end_to_end_trainer(setup, samples, cpu, ALONE, lambda module: module)
    beginning = trainer.snapshot()
    train_round(trainer, batches.round(RoundKey(NETWORK, 0, setup.plan.total_steps)))
    return beginning, trainer.snapshot()


def distance(one, other):
    return np.sqrt(sum(((one[name] - other[name]) ** 2).sum() for name in other))


def test_a_run_that_is_stopped_and_resumed_has_the_bits_of_a_plain_loop(tmp_path):
    """By the command line, with one process; it is stopped by SIGINT."""
    settings = [f"training.max_steps={STEPS}", "engine.workers=1", "evaluation.samples=0"]
    given = [word for each in [*DIGITS, *settings] for word in ("--set", each)]
    command, run = [sys.executable, "-m", "noprop_dist"], tmp_path / "run"
    where = ["--address", ray.get_runtime_context().gcs_address]
    train = subprocess.Popen([*command, "train", *given, "--run-dir", str(run), *where])
    deadline = time.monotonic() + 120
    while not list((run / RAY_TRAIN_FOLDER).glob("checkpoint_*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(train.pid, signal.SIGINT)
    assert train.wait(60) == 128 + signal.SIGINT
    assert max(each.step for each in rounds_of(run)) < STEPS, "it was stopped on the way"
    assert subprocess.run([*command, "resume", str(run), *where], check=False, timeout=120).returncode == 0
    assert fingerprints(run) == {NETWORK: plain_loop(*settings)[1].fingerprint()}
    assert steps_written(run) == {NETWORK: STEPS}, "nothing is counted twice"


def test_its_metrics_are_served_while_it_trains_and_go_on_from_those_of_an_earlier_process(tmp_path):
    settings = ["evaluation.samples=0", "engine.workers=1", "metrics.port=0", "metrics.linger_seconds=60"]

    def scraped(steps, resume):
        """What is served once all steps are done."""
        config = load_config("digits", None, [*DIGITS, *settings, f"training.max_steps={steps}"])
        coordinator = EndToEndCoordinator(config, str(tmp_path / "run"), resume)
        running = threading.Thread(target=coordinator.run)
        running.start()
        deadline, text = time.monotonic() + 120, ""
        while f'noprop_block_steps_total{{block="network",run="run"}} {steps}.0' not in text:
            assert running.is_alive()
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
            progress = coordinator.progress()
            said = " ".join(progress.news) if isinstance(progress, RunProgress) else ""
            if found := re.search(r"metrics at (http://\S+)", said):
                text = urlopen(found[1]).read().decode()
        coordinator.stop()
        running.join(60)
        return text

    text = scraped(32, resume=False)
    assert 'noprop_block_state{block="network",run="run",state="done"} 1.0' in text
    assert 'noprop_loss{block="network",run="run"}' in text
    assert "noprop_target_steps" in scraped(32, resume=True), "an earlier process's steps count"


def test_two_processes_train_what_one_trains_up_to_the_order_of_sums(tmp_path):
    settings = ["training.max_steps=48", "engine.workers=2"]
    outcome = EndToEndCoordinator(load_config("digits", None, [*DIGITS, *settings]), str(tmp_path / "run")).run()
    ours = RunDirectory(str(tmp_path / "run")).checkpoints.load_all(48)[NETWORK].weights
    beginning, expected = (snapshot.weights for snapshot in plain_loop(*settings))
    assert ours.keys() == expected.keys()
    assert distance(ours, expected) < 0.02 * distance(beginning, expected)
    assert outcome.evaluation.final
    assert {split for split, _ in outcome.evaluation.results} == {"validation", "test"}


def test_a_finished_run_that_is_made_longer_has_the_bits_of_a_plain_loop(tmp_path):
    run, settings = str(tmp_path / "run"), ["engine.workers=1", "evaluation.samples=64"]
    EndToEndCoordinator(load_config("digits", None, [*DIGITS, *settings, "training.max_steps=30"]), run).run()
    longer = load_config("digits", None, [*DIGITS, *settings, "training.max_steps=70"])
    outcome = EndToEndCoordinator(longer, run, resume=True).run()
    assert (outcome.step, outcome.evaluation.step, outcome.evaluation.final) == (70, 70, True)
    assert fingerprints(run) == {NETWORK: plain_loop(*settings, "training.max_steps=70")[1].fingerprint()}
    assert steps_written(run) == {NETWORK: 70}


def test_numbers_that_are_not_finite_end_the_run_with_their_step(tmp_path):
    config = load_config("digits", None, [*DIGITS, "engine.workers=2", "training.learning_rate=1e30"])
    with pytest.raises(TrainingError, match=r"the network was stopped: .*step"):
        EndToEndCoordinator(config, str(tmp_path / "run")).run()


def test_processes_that_find_no_room_are_waited_for_no_longer_than_was_set(tmp_path):
    @ray.remote(num_cpus=2)
    class Other:
        def here(self):
            return True

    other = Other.remote()
    assert ray.get(other.here.remote())
    config = load_config("digits", None, [*DIGITS, "engine.workers=2", "engine.start_timeout_seconds=4"])
    coordinator = EndToEndCoordinator(config, str(tmp_path / "run"))
    try:
        with pytest.raises(
            TrainingError, match=r"start_timeout_seconds=4: it asks for 2 process\(es\), each with 1 core"
        ):
            coordinator.run()
        assert "waiting for 2 process" in coordinator.progress().waits_for
    finally:
        ray.kill(other)


def test_a_resume_deletes_no_folder_that_a_strangers_run_names_and_takes_no_foreign_snapshot(tmp_path):
    steps = ["training.max_steps=80", "checkpoint.every_steps=40"]
    config = load_config("digits", None, [*DIGITS, *steps, "engine.workers=1"])
    run, victim = tmp_path / "run", tmp_path / "victim"
    EndToEndCoordinator(config, str(run)).run()
    expected = fingerprints(run)
    shutil.rmtree(run / "checkpoints/step-00000080")
    victim.mkdir()
    named = {"version": 0, "checkpoint_dir_name": str(victim), "metrics": {}}
    state = run / RAY_TRAIN_FOLDER / "checkpoint_manager_snapshot.json"
    values = json.loads(state.read_text())
    values["checkpoint_results"] = [named, *values["checkpoint_results"][-1:]]
    state.write_text(json.dumps({**values, "checkpoint_report_indices": [0, 1]}))
    EndToEndCoordinator(continued(config, ["checkpoint.num_to_keep=1"]), str(run), resume=True).run()
    assert victim.is_dir()
    assert fingerprints(run) == expected
    assert steps_written(run) == {NETWORK: 80}, "it went on from the run's own snapshots"
