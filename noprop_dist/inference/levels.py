"""What blocks that own ranges of noise levels get wrong at each level, and what further steps through a range do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from noprop_dist.data.dataset import Split
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.objective import predict_embedding, squared_error
from noprop_dist.diffusion.process import noisy_embedding
from noprop_dist.inference.evaluation import TERMS_PASS, Evaluation, evaluate
from noprop_dist.inference.network import NoPropNetwork, Sampler
from noprop_dist.models.features import image_features, logits

LEVELS_PER_BLOCK = 7


@dataclass(frozen=True)
class LevelError:
    """What a block gets wrong at one level of its range.

    Attributes:
        block: 1..T.
        log_snr: λ.
        squared_error: E‖û_t(z, x, λ) − u_y‖², z ~ q(z | y) at that level.
    """

    block: int
    log_snr: float
    squared_error: float


@torch.inference_mode()
def level_errors(network: NoPropNetwork, split: Split, levels: int = LEVELS_PER_BLOCK) -> list[LevelError]:
    """The error of every block at levels that are equal in λ, from one end of its range to the other.

    Args:
        network: whose blocks are told the level.
        split: of held-out data; it is taken as one batch.
        levels: of each block, at least 2.
    """
    x = Samples(split.inputs, network.facts, network.device).batch(np.arange(len(split)))
    u_y = network.embedding[torch.from_numpy(split.labels).to(network.device)]
    steps, errors = levels - 1, list[LevelError]()
    fine = network.schedule.refined(steps)
    for t, block in enumerate(network.blocks, start=1):
        features, epsilon = image_features(block, x), network.noise(len(x), t, TERMS_PASS, 0)
        for at in range((t - 1) * steps, t * steps + 1):
            log_snr = torch.full((len(x),), fine.log_snr(at), device=network.device)
            z = noisy_embedding(u_y, epsilon, fine.alpha_bar[at])
            u_hat = predict_embedding(logits(block, features, z, log_snr), network.embedding)
            errors.append(LevelError(t, fine.log_snr(at), squared_error(u_hat, u_y).item()))
    return errors


def accuracy_by_steps(
    network: NoPropNetwork, split: Split, steps: Sequence[int], samplers: Sequence[Sampler]
) -> dict[tuple[int, Sampler], Evaluation]:
    """Accuracy of the chain by the number of steps that each block takes through its range, and by sampler."""
    chains = {k: replace(network, steps_per_block=k) for k in steps}
    return {(k, sampler): evaluate(chains[k], split, sampler) for k in steps for sampler in samplers}
