"""The transformer of `blocks.network.kind=vit` as one ordinary network, trained end to end on handwritten digits.

What NoProp with the same layers in blocks is to be compared with: same data, order of samples, batches and optimiser,
cross-entropy of the logits. (`noprop-dist train --method backprop` is the paper's baseline, Eqs. 17-19, whose network
goes from noise to label; with one block, half of what its classifier reads is noise.)
"""

import argparse
import math
import resource
import time

import torch
import torch.nn.functional as F

from noprop_dist.data.digits import load_digits
from noprop_dist.models.vit import VitNetwork
from noprop_dist.random_streams import Purpose, stream, stream_seed

B = 128
data = load_digits(validation_fraction=0.1)
shapes = data.shapes(embedding_dim=data.facts.classes)


def normalised(images):
    return (torch.from_numpy(images).float() / 255 - data.facts.mean[0]) / data.facts.std[0]


def batches(seed, steps):
    """Mini-batches (x, y), in the order in which every block of a NoProp run of this seed sees them."""
    images, labels = normalised(data.train.inputs), torch.from_numpy(data.train.labels)
    for step in range(steps):
        epoch, k = divmod(step, len(labels) // B)
        batch = stream(seed, Purpose.ORDER, epoch=epoch).permutation(len(labels))[k * B : (k + 1) * B]
        yield images[batch], labels[batch]


def logits(network, x):
    """There is no label to denoise: z is 0."""
    return network(x, torch.zeros(len(x), shapes.embedding_dim))


def train(layers, dropout, seed, steps, rate):
    torch.manual_seed(stream_seed(seed, Purpose.INITIALISATION, 1))
    network = VitNetwork(shapes, layers=layers, dropout=dropout)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-3, fused=True)
    for x, y in batches(seed, steps):
        optimizer.zero_grad()
        F.cross_entropy(logits(network, x), y).backward()
        optimizer.step()
    return network.eval()


@torch.inference_mode()
def accuracy(network, split):
    return (logits(network, normalised(split.inputs)).argmax(dim=-1).numpy() == split.labels).mean()


def at_least(least, kind=int):
    def read(text):
        if not least <= kind(text) < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}, or no number")
        return kind(text)

    return read


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", metavar="STEPS", type=at_least(1), nargs="?", default=400)
    parser.add_argument("--layers", type=at_least(1), default=6, help="of the whole network (default: %(default)s)")
    parser.add_argument("--dropout", type=at_least(0.0, float), default=0.0, help="default: %(default)s")
    parser.add_argument("--seed", type=at_least(0), default=0, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=at_least(0.0, float), default=1e-3, help="default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    network = train(arguments.layers, arguments.dropout, arguments.seed, arguments.steps, arguments.learning_rate)
    parameters = sum(each.numel() for each in network.parameters())
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - started:.1f} s, {parameters:,} parameters, {peak_mib:,.0f} MiB at most")
    for name, split in (("validation", data.held_out.validation), ("test", data.held_out.test)):
        print(f"{accuracy(network, split):.2%} of {len(split)} {name} images")
