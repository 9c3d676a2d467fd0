"""The Python API on Ray: what is handed over travels to the workers."""

import sys

import numpy as np
import torch
from run_facts import fingerprints
from torch import nn

import noprop_dist
from noprop_dist import RunConfig

X = np.random.default_rng(0).integers(0, 256, (80, 1, 4, 4), dtype=np.uint8)
Y = np.arange(80) % 4
CONFIG = {"blocks": {"count": 2}, "training": {"max_steps": 12, "batch_size": 8}, "metrics": {"port": None}}
MODULE = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.layer = nn.Linear(16 + embedding_dim, classes)

    def forward(self, x, z):
        return self.layer(torch.cat([x.flatten(1), z], dim=1))
"""


def trained_alike(network, tmp_path):
    for engine in ("ray", "sequential"):
        config = RunConfig(**CONFIG, engine={"kind": engine})
        noprop_dist.train(config, tmp_path / engine, data=(X, Y), network=network)
    return fingerprints(tmp_path / "ray") == fingerprints(tmp_path / "sequential")


def test_arrays_and_a_class_of_a_function_have_the_sequential_engines_bits(ray_here, tmp_path):
    class Local(nn.Module):
        def __init__(self, input_shape, classes, embedding_dim):
            super().__init__()
            self.layer = nn.Linear(int(np.prod(input_shape)) + embedding_dim, classes)

        def forward(self, x, z):
            return self.layer(torch.cat([x.flatten(1), z], dim=1))

    assert trained_alike(Local, tmp_path)


def test_the_code_of_a_module_beside_a_script_travels_with_its_class(ray_here, tmp_path, monkeypatch):
    beside = tmp_path / "scripts"
    beside.mkdir()
    (beside / "beside_a_script.py").write_text(MODULE)
    monkeypatch.syspath_prepend(beside)
    assert trained_alike(__import__("beside_a_script").Mine, tmp_path)
    sys.modules.pop("beside_a_script")
