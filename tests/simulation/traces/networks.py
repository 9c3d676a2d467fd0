"""Networks of recorded runs, built in the workers by their import path."""

import time
from pathlib import Path

import torch
from torch import nn


class Slow(nn.Module):
    """Takes `seconds` for a step, and more while a file is there; raises that memory is out once another is there."""

    def __init__(self, input_shape, classes, embedding_dim, seconds, stall_while="", out_of_memory_if="", width=0):
        super().__init__()
        self.layer = nn.Linear(embedding_dim, classes)
        self.ballast = nn.Parameter(torch.zeros(int(width), int(width))) if width else None
        self.seconds, self.stall, self.memory = seconds, stall_while, out_of_memory_if

    def forward(self, x, z):
        if self.training:
            time.sleep(self.seconds)
            while self.stall and Path(self.stall).exists():
                time.sleep(0.05)
            if self.memory and Path(self.memory).exists():
                Path(self.memory).unlink()
                raise torch.OutOfMemoryError("made up")
        logits = self.layer(z)
        return logits if self.ballast is None else logits + self.ballast.sum()
