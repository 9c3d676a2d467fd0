"""Networks for the tests of faults, built in the workers by its import path."""

import os
import signal
import time
from pathlib import Path

from torch import nn


class Slow(nn.Module):
    """Takes some seconds for a step while a file is there."""

    def __init__(self, input_shape, classes, embedding_dim, seconds, while_there):
        super().__init__()
        self.layer = nn.Linear(embedding_dim, classes)
        self.seconds, self.file = seconds, Path(while_there)

    def forward(self, x, z):
        if self.training and self.file.exists():
            time.sleep(self.seconds)
        return self.layer(z)


class StuckOnce(nn.Module):
    """Stops its own process in its first step, unless a file is there."""

    def __init__(self, input_shape, classes, embedding_dim, unless_there):
        super().__init__()
        self.layer = nn.Linear(embedding_dim, classes)
        self.file = Path(unless_there)

    def forward(self, x, z):
        if self.training and not self.file.exists():
            self.file.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return self.layer(z)
