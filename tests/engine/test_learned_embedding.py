"""A learned W_embed in the Ray engine: the gradient of the whole of Eq. 8, and the bits of the sequential engine."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from run_facts import fingerprints, records_of, rounds_of, steps_written

from noprop_dist.config.layers import load_config
from noprop_dist.errors import TrainingError
from noprop_dist.random_streams import Purpose, stream
from noprop_dist.records import WorkerLost, WorkerReady
from noprop_dist.stages import CLASSIFIER, EMBEDDING, block
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.setup import prepare

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.slow]

DIGITS = ["training.max_steps=24", "checkpoint.every_steps=8", "checkpoint.snapshot_every_steps=8", "metrics.port=null",
          "engine.device=cpu", "blocks.networks.3={kind: paper}"]  # fmt: skip
ADAM_SHARE = 0.1
"""1 − β₁: Adam's first moment after its first step is this share of the gradient."""


def negative_elbo_of_one_batch(setup, data, W):
    """Eq. 8 as one scalar of W, written down from the paper: all places where W appears are differentiated at once."""
    config, schedule, T = setup.config, setup.plan.schedule, setup.plan.schedule.T
    batch = setup.batch_stream(data.train.labels).batch(block(1), 0)
    labels = torch.from_numpy(batch.labels).long()
    x = setup.training_samples(data.train.inputs, torch.device("cpu")).batch(batch.indices)
    u_y, d = W[labels], W.shape[1]

    def z(t):
        key = {"stage": t + 1, "epoch": 0, "step": 0}
        epsilon = stream(config.seed, Purpose.NOISE, **key).standard_normal((len(labels), d), dtype=np.float32)
        alpha_bar = schedule.alpha_bar[t]
        return alpha_bar**0.5 * u_y + (1 - alpha_bar) ** 0.5 * torch.from_numpy(epsilon)

    classifier = setup.plan.classifier()
    f = classifier.f if config.classifier.kind == "radial" else classifier
    scores = F.linear(z(T), f.weight, f.bias)
    if config.classifier.kind == "radial":
        y = torch.softmax(scores, dim=1) @ W
        scores = -((y[:, None] - W[None]) ** 2).sum(dim=2) / (2 * config.classifier.sigma**2)
    whole = -torch.log_softmax(scores, dim=1)[torch.arange(len(labels)), labels].mean()
    a = schedule.alpha_bar[0]
    whole = whole + 0.5 * (a * (u_y**2).sum(dim=1).mean() - d * a - d * np.log(1 - a))
    for t in range(1, T + 1):
        network = setup.plan.block_network(t).train()
        u_hat = torch.softmax(network(x, z(t - 1)), dim=1) @ W
        snr = [alpha_bar / (1 - alpha_bar) for alpha_bar in (schedule.alpha_bar[t], schedule.alpha_bar[t - 1])]
        of_block = T / 2 * config.objective.eta * (snr[0] - snr[1]) * ((u_hat - u_y) ** 2).sum(dim=1).mean()
        whole = whole + of_block / T
    return whole


@pytest.mark.parametrize("classifier", ["linear", "radial"])
@pytest.mark.parametrize("embedding", ["learned", "prototype"])
def test_the_gradient_of_w_embed_is_that_of_the_whole_objective(run_here, tmp_path, embedding, classifier):
    settings = [f"embedding={{kind: {embedding}, sync_steps: 1}}", f"classifier={{kind: {classifier}}}",
                "training.max_steps=1", "blocks.networks={}", "metrics.port=null", "engine.workers=2",
                "engine.device=cpu", "evaluation.samples=0"]  # fmt: skip
    config = load_config("digits", None, settings)
    run_here(config, str(tmp_path / "run"))
    snapshot = RunDirectory(str(tmp_path / "run")).checkpoints.load_all(1)[EMBEDDING]
    measured = torch.from_numpy(snapshot.optimizer["0.exp_avg"]) / ADAM_SHARE
    setup, data = prepare(config)
    W = setup.embedding.clone().requires_grad_()
    (expected,) = torch.autograd.grad(negative_elbo_of_one_batch(setup, data, W), W)
    error = (measured - expected).norm() / expected.norm()
    assert error < 2e-6, "float32 precision"
    assert expected.norm() > 0.1


@pytest.mark.parametrize(
    ("kind", "sync_steps", "workers", "round_steps", "sampling"),
    [
        ("learned", 1, 2, 7, "coordinator"),
        ("learned", 8, 10, 32, "worker"),
        ("prototype", 3, 2, 1, "worker"),
        ("prototype", 1, 1, 7, "coordinator"),
    ],
)
def test_placement_rounds_and_who_draws_change_no_bit(
    run_here, sequential, tmp_path, kind, sync_steps, workers, round_steps, sampling
):
    embedding = f"embedding={{kind: {kind}, sync_steps: {sync_steps}}}"
    expected = sequential(*DIGITS, embedding)
    assert list(expected)[-2:] == [CLASSIFIER, EMBEDDING]
    engine = [f"engine.workers={workers}", f"engine.round_steps={round_steps}", f"engine.sampling={sampling}"]
    outcome = run_here(load_config("digits", None, [*DIGITS, embedding, *engine]), str(tmp_path / "run"))
    assert fingerprints(tmp_path / "run") == expected
    assert outcome.evaluation.final


def test_worker_side_sampling_changes_no_bit_of_fixed_embeddings(run_here, sequential, tmp_path):
    expected = sequential(*DIGITS)
    run_here(load_config("digits", None, [*DIGITS, "engine.sampling=worker"]), str(tmp_path / "run"))
    assert fingerprints(tmp_path / "run") == expected


def killed_on_the_way(directory, name, after_step):
    """A thread that kills a worker's process once a stage has come so far; returns it and what it killed."""
    killed = []

    def kill():
        run, deadline = RunDirectory(str(directory)), time.monotonic() + 60
        while time.monotonic() < deadline and not killed:
            time.sleep(0.1)
            if not run.holds_run:
                continue
            if any(each.step >= after_step for each in rounds_of(directory)):
                pids = [each.pid for each in records_of(directory, WorkerReady) if each.worker == name]
                os.kill(pids[-1], signal.SIGKILL)
                killed.append(pids[-1])

    thread = threading.Thread(target=kill)
    thread.start()
    return thread, killed


@pytest.mark.parametrize(
    ("victim", "workers"), [("block worker 2", 2), ("classifier worker", 10), ("block worker 1", 1)]
)
def test_a_worker_killed_on_the_way_changes_no_bit(run_here, sequential, tmp_path, victim, workers):
    settings = ["embedding={kind: learned, sync_steps: 4}", "training.max_steps=400", "checkpoint.every_steps=400"]
    expected = sequential(*DIGITS, *settings)
    thread, killed = killed_on_the_way(tmp_path / "run", victim, after_step=40)
    run_here(load_config("digits", None, [*DIGITS, *settings, f"engine.workers={workers}"]), str(tmp_path / "run"))
    thread.join()
    assert killed
    assert [each.worker for each in records_of(tmp_path / "run", WorkerLost)] == [victim]
    assert fingerprints(tmp_path / "run") == expected
    assert set(steps_written(tmp_path / "run").values()) == {400}, "nothing is counted twice"


def test_a_block_that_cannot_go_on_ends_the_run_and_is_named(run_here, tmp_path):
    """The others need its gradient."""
    settings = ["embedding={kind: learned, sync_steps: 4}", "training.max_steps=40", "checkpoint.every_steps=40"]
    config = load_config("digits", None, [*DIGITS, *settings, "blocks.training.4={learning_rate: 1e30}"])
    with pytest.raises(TrainingError, match=r"block 4 .*no other stage can go on without its gradient of W_embed"):
        run_here(config, str(tmp_path / "run"))


def test_a_resumed_run_has_the_bits_of_one_that_was_never_stopped(sequential, tmp_path):
    """By the command line, stopped by SIGINT in the middle."""
    settings = ["embedding={kind: learned, sync_steps: 4}", "training.max_steps=200", "checkpoint.every_steps=200"]
    expected = sequential(*DIGITS, *settings)
    given = [word for each in [*DIGITS, *settings] for word in ("--set", each)]
    command = [sys.executable, "-m", "noprop_dist"]
    train = subprocess.Popen([*command, "train", *given, "--run-dir", str(tmp_path / "run")])
    run, deadline = RunDirectory(str(tmp_path / "run")), time.monotonic() + 100
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if run.holds_run and any(each.step >= 40 for each in rounds_of(run)):
            break
    os.kill(train.pid, signal.SIGINT)
    assert train.wait(60) == 128 + signal.SIGINT
    assert subprocess.run([*command, "resume", str(tmp_path / "run")], check=False, timeout=120).returncode == 0
    assert fingerprints(tmp_path / "run") == expected
