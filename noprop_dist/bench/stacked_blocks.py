"""All blocks as one network: weights stacked along a new first dimension, and the network mapped over it (torch.func).

One kernel then does a layer of every block. It is measured here and not used by the trainer: all blocks have to take
their steps together, with one optimiser and dropout from one generator, so that a block's bits would depend on which
others are beside it.
"""

from copy import deepcopy

import torch
from torch import Tensor

from noprop_dist.config.schema import Precision
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.objective import denoising_weight, predict_embedding
from noprop_dist.training.setup import RunSetup
from noprop_dist.training.trainers import multiply_in


class StackedBlocks:
    """T blocks with the same network, a fixed W_embed and AdamW.

    Args:
        setup: of the run.
        samples: of the training split, on the device.
        device: that it computes on.
        precision: that the networks multiply in.
    """

    def __init__(self, setup: RunSetup, samples: Samples, device: torch.device, precision: Precision) -> None:
        training, blocks = setup.config.training, setup.config.blocks.trained()
        networks = [setup.block_network(block).to(device).train() for block in blocks]
        self._samples = samples
        self._precision = precision
        self._device = device
        self._embedding = setup.embedding.to(device)
        gains = [denoising_weight(setup.schedule, block, setup.config.objective.eta) for block in blocks]
        self._weights = torch.tensor(gains, device=device)
        self.parameters, self._buffers = torch.func.stack_module_state(networks)
        self._network = deepcopy(networks[0]).to("meta")
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(),
            training.learning_rate,
            weight_decay=training.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )

    def compute(self, x: Tensor, labels: Tensor, z: Tensor) -> Tensor:
        """One step of every block: x (B, …) as stored, labels (B,) and z (T, B, d) → ‖û_t − u_y‖² of each, (T,)."""
        with multiply_in(self._precision, self._device):
            logits = torch.vmap(self._of_one_block, in_dims=(0, 0, None, 0), randomness="different")(
                self.parameters, self._buffers, self._samples.normalise(x), z
            )
        u_hat = predict_embedding(logits.float(), self._embedding)
        errors = (u_hat - self._embedding[labels]).square().sum(dim=-1).mean(dim=1)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward((self._weights * errors).sum())  # no term has a weight of another block in it
        self._optimizer.step()
        return errors.detach()

    def _of_one_block(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(self._network, (parameters, buffers), (x, z))
        return logits
