"""Classifies one picture."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from noprop_dist.data.samples import Samples
from noprop_dist.inference.network import NoPropNetwork, Sampler


@dataclass(frozen=True)
class Prediction:
    """The most probable class of a picture, and its probability."""

    class_name: str
    probability: float


@torch.no_grad()
def predict_image(network: NoPropNetwork, image: NDArray[np.uint8], sampler: Sampler, passes: int = 1) -> Prediction:
    """Classify one picture by itself, so that no prediction depends on others.

    Args:
        network: that classifies it.
        image: as it is stored, (C, H, W).
        sampler: `stochastic` or `mean`.
        passes: of the reverse process, averaged.
    """
    x = Samples(image[None], network.facts, network.device).batch(np.zeros(1, dtype=np.int64))
    probability, label = network.decide(x, sampler, passes).probabilities[0].max(dim=-1)
    return Prediction(network.facts.class_names[int(label)], float(probability))
