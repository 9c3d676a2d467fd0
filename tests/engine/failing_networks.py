"""Networks that fail in a worker, for the tests of how a failure is told."""

from torch import nn


class FailsLater(nn.Module):
    """Works for so many training calls, then raises."""

    def __init__(self, input_shape, classes, embedding_dim, calls):
        super().__init__()
        self.layer = nn.Linear(embedding_dim, classes)
        self.left = calls

    def forward(self, x, z):
        if self.training:
            self.left -= 1
            if self.left < 0:
                raise OverflowError("the soup boiled over")
        return self.layer(z)
