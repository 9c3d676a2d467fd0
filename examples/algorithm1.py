"""Algorithm 1 of the paper (NoProp-DT, arXiv 2503.24322) on handwritten digits, in one file of plain torch.

Time runs from noise (z_0) to label (z_T), so ᾱ_t rises with t (docs/explanation/mathematics.md). Every random draw
has its own key. So the weights are those of `noprop-dist train --preset digits`, bit for bit, however many workers
that has.
"""

import argparse
import math

import numpy as np
import torch
import torch.nn.functional as F

from noprop_dist.data.digits import load_digits
from noprop_dist.models.small_conv import SmallConvNetwork
from noprop_dist.random_streams import Purpose, stream, stream_seed

seed, T, eta, B = 0, 10, 0.1, 128
data = load_digits(validation_fraction=0.1)
m = d = data.facts.classes
W_embed = torch.eye(m)  # one-hot class embeddings: u_y is row y

# The cosine schedule ᾱ_0 … ᾱ_T; α_t = ᾱ_t / ᾱ_{t+1} and SNR(t) = ᾱ_t / (1 − ᾱ_t) follow from it.
cos = [math.cos((1 - t / T + 0.008) / (1 + 0.008) * math.pi / 2) for t in range(T + 1)]
alpha_bar = [min(max(cos[t] ** 2 / cos[T] ** 2, 1e-4), 1 - 1e-3) for t in range(T + 1)]
alpha = [alpha_bar[t] / alpha_bar[t + 1] for t in range(T)]
snr = [alpha_bar[t] / (1 - alpha_bar[t]) for t in range(T + 1)]


def normal(purpose, t, n, epoch=0, step=0):
    """ε ~ N(0, I), (n, d): a function of its key alone."""
    return torch.from_numpy(stream(seed, purpose, t, epoch, step).standard_normal((n, d), dtype=np.float32))


def normalised(images):
    return (torch.from_numpy(images).float() / 255 - data.facts.mean[0]) / data.facts.std[0]


def batches(t, steps):
    """Mini-batches (x, y, z_{t−1}) with z_{t−1} ~ q(z_{t−1} | y) = N(√ᾱ_{t−1} u_y, (1 − ᾱ_{t−1}) I) (Eq. 6)."""
    images, labels = normalised(data.train.inputs), torch.from_numpy(data.train.labels)
    for step in range(steps):
        epoch, k = divmod(step, len(labels) // B)
        batch = stream(seed, Purpose.ORDER, epoch=epoch).permutation(len(labels))[k * B : (k + 1) * B]
        x, y = images[batch], labels[batch]
        epsilon = normal(Purpose.NOISE, t, B, epoch, step)
        yield x, y, alpha_bar[t - 1] ** 0.5 * W_embed[y] + (1 - alpha_bar[t - 1]) ** 0.5 * epsilon


def u_hat(block, x, z):
    """û_t(z_{t−1}, x) = softmax(logits) · W_embed: a convex combination of class embeddings (section 2.3.2)."""
    return torch.softmax(block(x, z), dim=-1) @ W_embed


def adamw(module, rate):
    return torch.optim.AdamW(module.parameters(), lr=torch.tensor(rate), weight_decay=1e-3, fused=True)


def update(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train(steps):
    """Algorithm 1. Each block and the classifier takes its own term of Eq. 8, and nothing of the others."""
    blocks = []
    for t in range(1, T + 1):
        torch.manual_seed(stream_seed(seed, Purpose.INITIALISATION, t))
        block = SmallConvNetwork(data.shapes(d)).to(memory_format=torch.channels_last)
        optimizer = adamw(block, 1e-3)
        for x, y, z in batches(t, steps):  # (T/2) η (SNR(t) − SNR(t−1)) ‖û_t(z_{t−1}, x) − u_y‖²
            error = (u_hat(block, x, z) - W_embed[y]).square().sum(dim=-1).mean()
            update(optimizer, 0.5 * T * eta * (snr[t] - snr[t - 1]) * error)
        blocks.append(block.eval())
    torch.manual_seed(stream_seed(seed, Purpose.INITIALISATION, T + 1))
    classifier = torch.nn.Linear(d, m)
    optimizer = adamw(classifier, 2e-2)
    for _, y, z in batches(T + 1, steps):  # −log p̂_out(y | z_T), p̂_out = softmax of a linear map (Eq. 14)
        update(optimizer, F.cross_entropy(classifier(z), y))
    return blocks, classifier


@torch.inference_mode()
def classify(blocks, classifier, images, stochastic):
    """z_0 ~ N(0, I), then z_t = a_t û_t(z_{t−1}, x) + b_t z_{t−1} + √c_t ε_t up to z_T (Eq. 3), then its class."""
    x, z = normalised(images), normal(Purpose.EVALUATION, 0, len(images))
    for t, block in enumerate(blocks, start=1):
        a = math.sqrt(alpha_bar[t]) * (1 - alpha[t - 1]) / (1 - alpha_bar[t - 1])
        b = math.sqrt(alpha[t - 1]) * (1 - alpha_bar[t]) / (1 - alpha_bar[t - 1])
        c = (1 - alpha_bar[t]) * (1 - alpha[t - 1]) / (1 - alpha_bar[t - 1])
        z = a * u_hat(block, x, z) + b * z
        if stochastic:  # else the mean path, ε = 0
            z = z + c**0.5 * normal(Purpose.EVALUATION, t, len(x))
    return classifier(z).argmax(dim=-1).numpy()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("steps", metavar="STEPS", type=int, nargs="?", default=400, help="of every block")
    torch.set_num_threads(1)  # bits depend on it
    network, test = train(arguments.parse_args().steps), data.held_out.test
    for sampler in ("mean", "stochastic"):
        accuracy = (classify(*network, test.inputs, sampler == "stochastic") == test.labels).mean()
        print(f"{sampler} sampler: {accuracy:.2%} of {len(test)} test images")
