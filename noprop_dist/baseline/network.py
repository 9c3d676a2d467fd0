"""The paper's back-propagation baseline: NoProp's own blocks as one network (Eqs. 17-19)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from noprop_dist.data.dataset import DataFacts
from noprop_dist.diffusion.objective import predict_embedding
from noprop_dist.diffusion.reverse import BlockFunction, Link
from noprop_dist.diffusion.schedule import Schedule
from noprop_dist.inference.network import NoPropNetwork, Sampler
from noprop_dist.models.check import check_apart
from noprop_dist.run_plan import RunPlan
from noprop_dist.storage.snapshot import Snapshot, load_weights

INITIAL_ALPHA = 0.5
"""The paper does not say where the α_t begin."""


def end_to_end_chain(
    blocks: Sequence[BlockFunction], alpha: Tensor, embedding: Tensor, x: Tensor, z_0: Tensor
) -> Iterator[Link]:
    """z_t = (1 − α_t) z_{t-1} + α_t û_t(z_{t-1}, x) for t = 1..T (Eq. 18), one link at a time.

    Args:
        blocks: from (x, z_{t-1}) to logits.
        alpha: α_1 … α_T, (T,).
        embedding: W_embed, (m, d).
        x: inputs, (B, …).
        z_0: standard normal noise, (B, d) (Eq. 17).
    """
    z = z_0
    for t, block in enumerate(blocks, start=1):
        u_hat = predict_embedding(block(x, z), embedding)
        z = (1 - alpha[t - 1]) * z + alpha[t - 1] * u_hat
        yield Link(t, u_hat, z)


@dataclass(frozen=True)
class EndToEndChain(NoPropNetwork):
    """The trained baseline; its only randomness is z_0, so both samplers are the same.

    Attributes:
        alpha: α_1 … α_T, (T,).
    """

    alpha: Tensor

    @property
    def coefficients(self) -> Tensor:
        """α_t, 1 − α_t and 0 for t = 1..T: Eq. 18 in the form of a NoProp chain, (T, 3)."""
        return torch.stack([self.alpha, 1 - self.alpha, torch.zeros_like(self.alpha)], dim=1)

    def chain(
        self,
        x: Tensor,
        sampler: Sampler,  # noqa: ARG002
        pass_: int = 0,
        batch: int | None = 0,
    ) -> Iterator[Link]:
        """The chain from z_0 ~ N(0, I), one link at a time."""
        return end_to_end_chain(self.blocks, self.alpha, self.embedding, x, self.noise(len(x), 0, pass_, batch))


class EndToEndNetwork(nn.Module):
    """All that back-propagation trains: blocks, α_t = tanh(w_t), classifier, and a learned W_embed.

    Args:
        blocks: û_1 … û_T without their softmax.
        classifier: (z_T, W_embed) → scores.
        embedding: W_embed at the start, (m, d).
        is_learned: whether W_embed is trained.
    """

    def __init__(self, blocks: Sequence[nn.Module], classifier: nn.Module, embedding: Tensor, is_learned: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.classifier = classifier
        self.embedding = nn.Parameter(embedding.clone(), requires_grad=is_learned)
        self.w = nn.Parameter(torch.full((len(blocks),), INITIAL_ALPHA).atanh())

    def forward(self, x: Tensor, z_0: Tensor) -> Tensor:
        """(x (B, …), z_0 (B, d)) → the classifier's scores on z_T (Eq. 19), (B, m)."""
        *_, last = end_to_end_chain(list(self.blocks), self.w.tanh(), self.embedding, x, z_0)
        scores: Tensor = self.classifier(last.z, self.embedding)
        return scores

    def for_inference(self, schedule: Schedule, facts: DataFacts, seed: int) -> EndToEndChain:
        """The same network with the interface of a NoProp network, on its device.

        Args:
            schedule: of the NoProp run that it is compared with; the baseline's chain does not use it.
            facts: of the data.
            seed: of the run.
        """
        return EndToEndChain(
            blocks=tuple(self.blocks),
            classifier=self.classifier,
            embedding=self.embedding.detach(),
            schedule=schedule,
            facts=facts,
            seed=seed,
            alpha=self.w.detach().tanh(),
        )


def end_to_end_network(plan: RunPlan, embedding: Tensor) -> EndToEndNetwork:
    """The untrained baseline on the CPU; it begins with the same blocks and classifier as NoProp.

    Args:
        plan: of the run.
        embedding: W_embed at the start, (m, d).
    """
    blocks = {t: plan.block_network(t) for t in plan.config.blocks.trained()}
    check_apart((f"block {t}", network) for t, network in blocks.items())
    return EndToEndNetwork([*blocks.values()], plan.classifier(), embedding, plan.config.embedding.is_learned)


def assemble_end_to_end(plan: RunPlan, snapshot: Snapshot, device: torch.device) -> NoPropNetwork:
    """The trained baseline, with the interface of a NoProp network.

    Args:
        plan: of the run.
        snapshot: of the whole network.
        device: that it computes on.
    """
    network = end_to_end_network(plan, torch.zeros(plan.facts.classes, plan.embedding_dim))
    load_weights(network, snapshot)
    return plan.on_device(network.eval(), device).for_inference(plan.schedule, plan.facts, plan.config.seed)
