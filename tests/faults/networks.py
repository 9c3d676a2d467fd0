"""Networks for the tests of faults, built in the workers by their import path."""

import os
import signal
import time

from torch import nn


class Plain(nn.Module):
    """One layer of z."""

    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.layer = nn.Linear(embedding_dim, classes)

    def forward(self, x, z):
        return self.layer(z)


class Slow(Plain):
    """Takes so many seconds for a step."""

    def __init__(self, seconds, **shapes):
        super().__init__(**shapes)
        self.seconds = seconds

    def forward(self, x, z):
        if self.training:
            time.sleep(self.seconds)
        return super().forward(x, z)


class KillsItsWorker(Plain):
    """Ends its process at its n-th step, in every incarnation."""

    def __init__(self, step, **shapes):
        super().__init__(**shapes)
        self.left = step

    def forward(self, x, z):
        if self.training:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x, z)
