"""Networks of a user's own: what would be trained or measured wrong is refused before anything is written."""

import pytest
import torch
from torch import nn

import noprop_dist
from noprop_dist import NoPropClassifier, RunConfig, UserError
from noprop_dist.models.features import TwoPathNetwork

CONFIG = RunConfig.preset("digits", blocks={"count": 2}, training={"max_steps": 2}, engine={"kind": "sequential"})


class Linear(nn.Module):
    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.layer = nn.Linear(64 + embedding_dim, classes)

    def forward(self, x, z):
        return self.layer(torch.cat([x.flatten(1), z], dim=1))


class WritesIntoX(Linear):
    def forward(self, x, z):
        return super().forward(x.clamp_(0), z)


class WritesIntoAViewOfX(Linear):
    def forward(self, x, z):
        return super().forward(nn.functional.relu(x.flatten(1), inplace=True), z)


class WritesIntoZ(Linear):
    def forward(self, x, z):
        return super().forward(x, z.mul_(0.5))


class WritesIntoItsFeatures(TwoPathNetwork):
    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.image_path, self.label_path = nn.Flatten(), nn.Identity()
        self.head = nn.Linear(64 + embedding_dim, classes)

    def logits(self, features, z):
        return super().logits(features.add_(1), z)


class WritesIntoItsOwn(Linear):
    def forward(self, x, z):
        return super().forward((x + 1).clamp_(0).sub_(0.5), z.clone().mul_(0.5))


class Lazy(Linear):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.layer = nn.LazyLinear(10)


class Frozen(Linear):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.requires_grad_(False)


class Bfloat16(Linear):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.layer.bfloat16()


class NoModuleYet(nn.Module):
    def __init__(self, input_shape, classes, embedding_dim):
        pass


class Stops(Linear):
    def __init__(self, **sizes):
        raise SystemExit(3)


def returning(change):
    class Returning(Linear):
        def forward(self, x, z):
            return change(super().forward(x, z))

    return Returning


REFUSED = {
    "x": (WritesIntoX, "block 1: the network writes into x in place, .* write x = x.clamp"),
    "view of x": (WritesIntoAViewOfX, "block 1: the network writes into x in place"),
    "z": (WritesIntoZ, "block 1: the network writes into z in place"),
    "features": (WritesIntoItsFeatures, "block 1: the network writes into features in place"),
    "lazy": (Lazy, "block 1: layer.weight has no size before the first batch"),
    "frozen": (Frozen, "block 1: the network has no parameters that can be trained"),
    "bfloat16": (Bfloat16, "block 1: layer.weight of type torch.bfloat16 cannot be kept in a snapshot"),
    "no super().__init__()": (NoModuleYet, "block 1: the network cannot take samples .*: AttributeError"),
    "exit": (Stops, "Stops' could not be built: SystemExit: 3"),
    "float64": (returning(torch.Tensor.double), "returned torch.float64, torch.float32 is needed"),
    "int": (returning(torch.Tensor.long), "returned torch.int64, torch.float32 is needed"),
    "bool": (returning(torch.Tensor.bool), "returned torch.bool, torch.float32 is needed"),
    "half": (returning(torch.Tensor.half), "returned torch.float16, torch.float32 is needed"),
    "tuple": (returning(lambda logits: (logits, logits)), "returned tuple for a batch of 2"),
    "one batch": (returning(lambda logits: logits[0]), r"returned \(10,\) for a batch of 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_trained_and_measured_is_refused_in_one_sentence(name, tmp_path):
    network, told = REFUSED[name]
    with pytest.raises(UserError, match=told) as refused:
        noprop_dist.train(CONFIG, tmp_path / "run", network=network)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
    noprop_dist.train(CONFIG, tmp_path / "run", network=Linear)


def test_a_network_may_write_into_tensors_of_its_own(tmp_path):
    noprop_dist.train(CONFIG, tmp_path / "run", network=WritesIntoItsOwn)


SIZES = {"input_shape": (1, 8, 8), "classes": 10, "embedding_dim": 10}


def same_instance():
    network = Linear(**SIZES)
    return lambda **_: network


def with_part(name, part):
    def build(**sizes):
        network = Linear(**sizes)
        if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
            network.register_buffer(name, part)
        else:
            setattr(network, name, part)
        return network

    return lambda: build


SHARING = {
    "instance": (same_instance, "layer.weight"),
    "layer": (with_part("layer", nn.Linear(74, 10)), "layer.weight"),
    "parameter": (with_part("scale", nn.Parameter(torch.ones(1))), "scale"),
    "buffer": (with_part("mean", torch.ones(1)), "mean"),
    "dropout": (with_part("drop", nn.Dropout()), "drop"),
}


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("what", SHARING)
def test_networks_of_blocks_that_share_weights_are_refused(what, blocks, tmp_path):
    make, key = SHARING[what]
    config = RunConfig.preset("digits", blocks={"count": blocks}, training={"max_steps": 2}, engine=CONFIG.engine)
    with pytest.raises(UserError, match=f"block 1 and the network that is built next share {key}; every block needs"):
        noprop_dist.train(config, tmp_path / "run", network=make())
    assert not (tmp_path / "run").exists()


def test_what_has_no_state_may_be_shared(tmp_path):
    noprop_dist.train(CONFIG, tmp_path / "run", network=with_part("activation", nn.ReLU())())


def test_a_run_is_not_read_into_networks_that_share_weights(tmp_path):
    run = noprop_dist.train(CONFIG, tmp_path / "run", network=returning(lambda logits: logits))
    with pytest.raises(UserError, match="block 1 and block 2 share layer.weight"):
        noprop_dist.load(run, network=same_instance())
    noprop_dist.load(run, network=Linear).save_pretrained(tmp_path / "saved")
    with pytest.raises(UserError, match="block 1 and block 2 share layer.weight"):
        NoPropClassifier.from_pretrained(tmp_path / "saved", network=same_instance())
    NoPropClassifier.from_pretrained(tmp_path / "saved", network=Linear)
