"""The reverse process p: from noise z_0 through the blocks to z_T (Eqs. 3 and 7)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from noprop_dist.diffusion.objective import predict_embedding
from noprop_dist.diffusion.schedule import Schedule

BlockFunction = Callable[..., Tensor]
"""A block: (x (B, …), z_{t-1} (B, d)) → logits (B, m); one that owns a range of levels takes λ (B,) as well."""


@dataclass(frozen=True)
class Link:
    """One link of the chain: what block t made of z_{t-1}.

    Attributes:
        t: 1..T.
        u_hat: û_t(z_{t-1}, x), (B, d); where a block takes several steps, that of the last.
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
    *,
    steps_per_block: int = 1,
    takes_level: bool = False,
) -> Iterator[Link]:
    """z_t = a_t û_t(z_{t-1}, x) + b_t z_{t-1} + √c_t ε_t for t = 1..T, one link at a time (Eq. 3).

    A block that owns a range of levels may take k steps through it, equal in λ. The posterior of Eq. 3 holds between
    any two levels.

    Args:
        blocks: û_1 … û_T as functions from (x, z_{t-1}) to logits.
        schedule: of T blocks.
        embedding: W_embed, (m, d).
        x: inputs, (B, …).
        z_0: standard normal noise, (B, d).
        epsilon: gives ε (B, d) of step 1..kT for the `stochastic` sampler; None is the `mean` sampler (ε = 0).
        steps_per_block: k.
        takes_level: whether blocks are given λ of their input.
    """
    z, levels = z_0, schedule.refined(steps_per_block)
    for step in range(1, levels.T + 1):
        t = -(-step // steps_per_block)
        level = (z.new_full(z.shape[:1], levels.log_snr(step - 1)),) if takes_level else ()
        u_hat = predict_embedding(blocks[t - 1](x, z, *level), embedding)
        z = levels.a(step) * u_hat + levels.b(step) * z
        if epsilon is not None:
            z = z + levels.c(step) ** 0.5 * epsilon(step)
        if step % steps_per_block == 0:
            yield Link(t, u_hat, z)
