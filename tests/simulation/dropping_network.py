"""A small network with random draws and running statistics of its own, for the runs of `test_real_training.py`."""

from math import prod

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        first = nn.Linear(prod(input_shape) + embedding_dim, 16)
        self.layers = nn.Sequential(first, nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, classes))

    def forward(self, x, z, log_snr=None):
        return self.layers(torch.cat([x.flatten(1), z], dim=1))
