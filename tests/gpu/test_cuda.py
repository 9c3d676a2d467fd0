"""What holds on a CPU holds on a GPU: skipped where there is none, and not yet run on one by the authors."""

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest
import torch

from noprop_dist.config.layers import load_config
from noprop_dist.data.samples import ReadAhead
from noprop_dist.stages import block
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.device import start_thread
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
BLOCKS, STEPS = 4, 48
DIGITS = [f"blocks.count={BLOCKS}", "blocks.network={kind: paper}", "training.gradient_clip=1",
          "engine.device=cuda"]  # fmt: skip


def fingerprints(*settings, lanes=1, moved_at=None, read_ahead=False):
    """Of all blocks after some rounds of 16 steps; blocks may move to other trainers on the way."""
    setup, data = prepare(load_config("digits", None, [*DIGITS, *settings]))
    device, stream = setup.start_computing(), setup.batch_stream(data.train.labels)
    samples = setup.training_samples(data.train.inputs, device)
    if read_ahead:
        with patch("torch.cuda.mem_get_info", return_value=(0, 0)):  # as if the data did not fit
            samples = ReadAhead(data.train.inputs, setup.plan.facts, device, setup.plan.augmentation())

    def train(lane):
        start_thread(device, 1)
        trainers = {t: setup.block_trainer(t, samples, device) for t in range(1 + lane, BLOCKS + 1, lanes)}
        for first in range(0, STEPS, 16):
            for t in tuple(trainers):
                if first == moved_at:
                    snapshot = trainers[t].snapshot()
                    trainers[t] = setup.block_trainer(t, samples, device)
                    trainers[t].restore(snapshot)
                train_round(trainers[t], stream.round(RoundKey(block(t), first, 16)))
        return {t: trainer.snapshot().fingerprint() for t, trainer in trainers.items()}

    with ThreadPoolExecutor(lanes) as threads:
        return dict(sorted(pair for lane in threads.map(train, range(lanes)) for pair in lane.items()))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("network", ["paper", "vit"])
def test_captured_steps_have_the_bits_of_steps_done_call_by_call(precision, schedule, network):
    settings = [f"training.precision={precision}", f"training.lr_schedule={{kind: {schedule}}}",
                f"blocks.network.kind={network}"]  # fmt: skip
    by_call = fingerprints(*settings, "engine.cuda_graphs=never")
    assert fingerprints(*settings, "engine.cuda_graphs=always") == by_call
    assert fingerprints(*settings, "engine.cuda_graphs=always", moved_at=32) == by_call


def test_captured_averages_of_weights_have_the_bits_of_those_done_call_by_call():
    averaged = "training.ema_decay=0.95"  # its share of the weights changes over the first 171 steps
    by_call = fingerprints(averaged, "engine.cuda_graphs=never")
    assert by_call != fingerprints("engine.cuda_graphs=never")
    assert fingerprints(averaged, "engine.cuda_graphs=always") == by_call
    assert fingerprints(averaged, "engine.cuda_graphs=always", moved_at=32) == by_call


def test_blocks_that_are_trained_at_the_same_time_get_the_same_bits():
    one_by_one = fingerprints()
    assert fingerprints(lanes=2) == one_by_one
    assert fingerprints(lanes=4, moved_at=16) == one_by_one


def test_data_that_does_not_fit_on_the_device_gives_the_same_bits():
    augmented = "data.augment={crop_padding: 1, flip: true}"
    assert fingerprints(augmented, read_ahead=True, lanes=2) == fingerprints(augmented)
