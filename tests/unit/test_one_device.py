"""A picture is classified on the network's own device. Shown without a GPU: fake tensors refuse to mix devices."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from noprop_dist.data.samples import Samples
from noprop_dist.inference.network import NoPropNetwork, predict_image

GPU = torch.device("cuda", 0)
PICTURE = np.zeros((1, 8, 8), dtype=np.uint8)


def torch_fakes_a_gpu() -> bool:
    try:
        with FakeTensorMode(), GPU:
            torch.empty(1).copy_(torch.empty(1))
    except RuntimeError:
        return False
    return True


pytestmark = pytest.mark.skipif(not torch_fakes_a_gpu(), reason="this torch wants a GPU's driver for fake tensors, too")


@pytest.fixture
def network_on_gpu(small_setup, monkeypatch):
    """An untrained network whose tensors have the device of a GPU, and no values."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**30))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # it only moves within the host
    plan = small_setup[0].plan
    with FakeTensorMode():
        with GPU:
            blocks = tuple(plan.block_network(t).eval() for t in (1, 2, 3))
            classifier, embedding = plan.classifier(), torch.eye(10)
        yield NoPropNetwork(blocks, classifier, embedding, plan.schedule, plan.facts, seed=0)


@pytest.mark.parametrize("sampler", ["mean", "stochastic"])
def test_model_mean_and_picture_are_on_one_device(network_on_gpu, sampler):
    # Everything up to the decision is computed; only then is a value asked for, which fake tensors have not.
    with pytest.raises(DataDependentOutputException):
        predict_image(network_on_gpu, PICTURE, sampler)


def test_a_picture_left_on_the_cpu_is_found(network_on_gpu):
    samples = Samples(PICTURE[None], network_on_gpu.facts, network_on_gpu.device)
    with pytest.raises(RuntimeError, match="same device"):
        samples.normalise(torch.from_numpy(PICTURE[None]))
