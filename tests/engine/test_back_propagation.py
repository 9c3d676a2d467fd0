"""The back-propagation baseline by Ray Train: trains, resumes, and has the bits of a plain loop."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from noprop_dist.baseline.coordinator import RAY_TRAIN_FOLDER, EndToEndCoordinator
from noprop_dist.baseline.trainer import end_to_end_trainer
from noprop_dist.config.layers import load_config
from noprop_dist.errors import TrainingError
from noprop_dist.records import RoundDone
from noprop_dist.stages import NETWORK
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.replicas import ALONE
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare

pytestmark = [pytest.mark.slow]

DIGITS = ["method=backprop", "blocks.count=3", "training.max_steps=600", "checkpoint.every_steps=200",
          "checkpoint.snapshot_every_steps=20", "engine.device=cpu"]  # fmt: skip


def fingerprint(directory):
    (entry,) = RunDirectory(str(directory)).checkpoints.manifest().stages
    assert entry.stage == NETWORK
    return entry.sha256


def rounds_of(run):
    return [record for record in run.metrics() if isinstance(record, RoundDone)]


def test_one_process_has_the_bits_of_a_plain_loop(ray_here, tmp_path):
    config = load_config("digits", None, [*DIGITS, "training.max_steps=24", "engine.workers=1"])
    outcome = EndToEndCoordinator(config, str(tmp_path / "run")).run()
    setup, data = prepare(config)
    cpu = torch.device("cpu")
    samples, batches = setup.training_samples(data.train.inputs, cpu), setup.batch_stream(data.train.labels)
    trainer = end_to_end_trainer(setup, samples, cpu, ALONE, lambda module: module)
    train_round(trainer, batches.round(RoundKey(NETWORK, 0, 24)))
    assert fingerprint(tmp_path / "run") == trainer.snapshot().fingerprint()
    assert outcome.evaluation.final
    assert {split for split, _ in outcome.evaluation.results} == {"validation", "test"}


def test_two_processes_learn_digits_and_a_resumed_run_has_the_same_bits(ray_here, tmp_path):
    """By the command line; one run is stopped by SIGINT in the middle."""
    config = load_config("digits", None, [*DIGITS, "engine.workers=2"])
    whole = EndToEndCoordinator(config, str(tmp_path / "whole")).run()
    assert dict(whole.evaluation.results)["test"].accuracy > 0.95
    command, run = [sys.executable, "-m", "noprop_dist"], RunDirectory(str(tmp_path / "run"))
    given = [word for each in [*DIGITS, "engine.workers=2"] for word in ("--set", each)]
    train = subprocess.Popen([*command, "train", *given, "--run-dir", str(tmp_path / "run")])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "run" / RAY_TRAIN_FOLDER).glob("checkpoint_*")):
        time.sleep(0.05)
    os.kill(train.pid, signal.SIGINT)
    assert train.wait(60) == 128 + signal.SIGINT
    assert max(record.step for record in rounds_of(run)) < 600, "it was stopped on the way"
    assert subprocess.run([*command, "resume", str(tmp_path / "run")], check=False, timeout=120).returncode == 0
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")
    assert sum(record.steps for record in rounds_of(run)) == 600, "nothing is counted twice"


def test_numbers_that_are_not_finite_end_the_run_with_their_step(ray_here, tmp_path):
    config = load_config("digits", None, [*DIGITS, "engine.workers=2", "training.learning_rate=1e30"])
    with pytest.raises(TrainingError, match=r"the network was stopped: .*step"):
        EndToEndCoordinator(config, str(tmp_path / "run")).run()
