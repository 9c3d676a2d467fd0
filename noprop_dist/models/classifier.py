"""The classifier p̂_out(y | z_T) (Eq. 14)."""

import torch
from torch import nn


def linear_classifier(embedding_dim: int, classes: int, initial_seed: int) -> nn.Linear:
    """softmax(f(z_T)) with f linear: z_T (B, d) → scores (B, m); the softmax is in the loss."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(initial_seed)
        return nn.Linear(embedding_dim, classes)
