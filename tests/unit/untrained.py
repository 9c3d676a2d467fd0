"""Classifiers whose weights are drawn and not trained, of every kind of network."""

import os
import subprocess
import sys
from math import prod
from pathlib import Path

import torch
from torch import nn

from noprop_dist.baseline.network import end_to_end_network
from noprop_dist.config.layers import load_config
from noprop_dist.data.dataset import DataFacts
from noprop_dist.diffusion.embedding import onehot_embedding, random_embedding
from noprop_dist.inference.classifier import NoPropClassifier
from noprop_dist.inference.network import NoPropNetwork
from noprop_dist.run_plan import RunPlan

CPU = torch.device("cpu")
MLP = "blocks.network={kind: mlp, width: 16, depth: 1}"


class OwnNetwork(nn.Module):
    """A network of a user's own."""

    def __init__(self, input_shape, classes, embedding_dim, width=8):
        super().__init__()
        pixels = prod(input_shape)
        self.image = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.Tanh())
        self.head = nn.Linear(width + embedding_dim, classes)

    def forward(self, x, z):
        return self.head(torch.cat([self.image(x), z], dim=1))


OWN = "blocks.network={kind: custom, path: 'untrained:OwnNetwork', arguments: {width: 6}}"
NETWORKS = {
    "mlp": [MLP],
    "small-conv": ["blocks.network={kind: small-conv, channels: [4, 8], width: 16}"],
    "paper": ["blocks.network={kind: paper}"],
    "vit": ["blocks.network={kind: vit, width: 16, stack: 4}"],
    "ranges": [MLP, "blocks.noise={kind: range}", "evaluation.steps_per_block=2"],
    "vit with ranges": ["blocks.network={kind: vit, width: 16, stack: 4}", "blocks.noise={kind: range}"],
    "own": [OWN],
    "learned": [MLP, "embedding={kind: learned, dim: 7}"],
    "prototype": ["blocks.network={kind: small-conv, channels: [4, 8], width: 16}", "embedding.kind=prototype"],
    "radial": [MLP, "embedding={kind: learned, dim: 7}", "classifier.kind=radial"],
    "baseline": [MLP, "method=backprop"],
    "mixed": [MLP, "blocks.networks.2={kind: small-conv, channels: [4, 8], width: 16}"],
}


def untrained_network(*settings, shape=(1, 8, 8), dtype="uint8", classes=5):
    """A network and the card of its classifier; batch norms have statistics of their own."""
    channels = shape[0]
    facts = DataFacts(
        "made up",
        shape,
        tuple(f"class {label}" for label in range(classes)),
        tuple(0.1 + 0.1 * channel for channel in range(channels)),
        tuple(0.3 + 0.1 * channel for channel in range(channels)),
        {"train": 100, "validation": 10, "test": 10},
        "",
        dtype,
    )
    plan = RunPlan(load_config("digits", None, ["blocks.count=3", "metrics.port=0", *settings]), facts)
    embedding = (
        random_embedding(classes, plan.embedding_dim, 1)
        if plan.config.embedding.is_learned
        else onehot_embedding(classes)
    )
    if plan.end_to_end:
        baseline = plan.on_device(end_to_end_network(plan, embedding).eval(), CPU)
        _of_use(baseline)
        network = baseline.for_inference(plan.schedule, facts, 3)
    else:
        blocks = tuple(plan.on_device(plan.block_network(t).eval(), CPU) for t in (1, 2, 3))
        of = plan.classifier().eval(), embedding, plan.schedule, facts, 3
        network = NoPropNetwork(blocks, *of, takes_level=plan.takes_level)
        for module in (*blocks, network.classifier):
            _of_use(module)
    card = {
        "blocks": plan.config.blocks.model_dump(mode="json", include={"count", "network", "networks", "noise"}),
        "classifier": plan.config.classifier.model_dump(mode="json"),
        "trained": {"data": "made up", "accuracy": {"test (mean)": 0.5}},
    }
    return network, card


def _of_use(module):
    """Weights that tell classes apart: another α_t for each block, statistics of batch norms, a bold classifier."""
    draw = torch.Generator().manual_seed(5)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.3, generator=draw)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=draw)
        elif name == "w":
            tensor.uniform_(0.2, 1, generator=draw)
        elif tensor.shape and tensor.is_floating_point() and not name.endswith("embedding"):
            tensor.mul_(2)


def untrained(*settings, sampler="mean", passes=1, seed=None, **facts):
    network, card = untrained_network(*settings, **facts)
    return NoPropClassifier.of(network, card, sampler, passes, seed)


def images_for(classifier, count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shape = (count, *classifier.input_shape)
    if classifier.input_dtype == "uint8":
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    return torch.randn(shape, generator=draw)


def python(code, *arguments, folder=None):
    """What a program prints, in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        **{"capture_output": True, "text": True, "cwd": folder, "timeout": 100},
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parents[2], Path(__file__).parent)))},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
