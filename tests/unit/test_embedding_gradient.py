"""The gradient that moves a learned W_embed is that of the whole of Eq. 8, though each stage gathers its own term."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from noprop_dist.api import train
from noprop_dist.config.layers import load_config
from noprop_dist.random_streams import Purpose, stream
from noprop_dist.stages import EMBEDDING, block
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.setup import prepare

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
def test_the_gradient_of_w_embed_is_that_of_the_whole_objective(tmp_path, embedding, classifier):
    settings = [f"embedding={{kind: {embedding}, sync_steps: 1}}", f"classifier={{kind: {classifier}}}"]
    one_step = ["training.max_steps=1", "evaluation.samples=0", "engine.kind=sequential"]
    config = load_config("digits", None, [*settings, *one_step])
    train(config, str(tmp_path / "run"))
    snapshot = RunDirectory(str(tmp_path / "run")).checkpoints.load_all(1)[EMBEDDING]
    measured = torch.from_numpy(snapshot.optimizer["0.exp_avg"]) / ADAM_SHARE
    setup, data = prepare(config)
    W = setup.embedding.clone().requires_grad_()
    (expected,) = torch.autograd.grad(negative_elbo_of_one_batch(setup, data, W), W)
    error = (measured - expected).norm() / expected.norm()
    assert error < 2e-6, "float32 precision"
    assert expected.norm() > 0.1
