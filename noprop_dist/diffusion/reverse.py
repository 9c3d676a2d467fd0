"""The reverse process p: from noise z_0 through the blocks to z_T (Eqs. 3 and 7)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from noprop_dist.diffusion.objective import predict_embedding
from noprop_dist.diffusion.schedule import Schedule

BlockFunction = Callable[[Tensor, Tensor], Tensor]
"""A block: (x (B, …), z_{t-1} (B, d)) → logits (B, m)."""


@dataclass(frozen=True)
class Link:
    """One link of the chain: what block t made of z_{t-1}.

    Attributes:
        t: 1..T.
        u_hat: û_t(z_{t-1}, x), (B, d).
        z: z_t, (B, d).
    """

    t: int
    u_hat: Tensor
    z: Tensor


def reverse_process(
    blocks: Sequence[BlockFunction],
    schedule: Schedule,
    embedding: Tensor,
    x: Tensor,
    z_0: Tensor,
    epsilon: Callable[[int], Tensor] | None = None,
) -> Iterator[Link]:
    """z_t = a_t û_t(z_{t-1}, x) + b_t z_{t-1} + √c_t ε_t for t = 1..T, one link at a time (Eq. 3).

    Args:
        blocks: û_1 … û_T as functions from (x, z_{t-1}) to logits.
        schedule: of T blocks.
        embedding: W_embed, (m, d).
        x: inputs, (B, …).
        z_0: standard normal noise, (B, d).
        epsilon: gives ε_t (B, d) for the `stochastic` sampler; None is the `mean` sampler (ε = 0).
    """
    z = z_0
    for t, block in enumerate(blocks, start=1):
        u_hat = predict_embedding(block(x, z), embedding)
        z = schedule.a(t) * u_hat + schedule.b(t) * z
        if epsilon is not None:
            z = z + schedule.c(t) ** 0.5 * epsilon(t)
        yield Link(t, u_hat, z)
