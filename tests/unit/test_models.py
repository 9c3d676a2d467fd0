"""Every network computes logits from (x, z), fits the data it is said to fit, and is drawn from (seed, block)."""

import sys

import pytest
import torch
from torch import nn

from noprop_dist.config import schema as networks
from noprop_dist.errors import UserError
from noprop_dist.models.build import build_network, check_memory, undrawn_network
from noprop_dist.models.check import check_network
from noprop_dist.models.shapes import Shapes

DIGITS, MNIST, CIFAR = (Shapes(shape, 10, 10) for shape in ((1, 8, 8), (1, 28, 28), (3, 32, 32)))


@pytest.mark.parametrize(
    ("settings", "shapes"),
    [
        (networks.PaperNetwork(), MNIST),
        (networks.PaperNetwork(dropout_unit="channel"), CIFAR),
        (networks.SmallConvNetwork(), DIGITS),
        (networks.SmallConvNetwork(channels=(4, 8), width=16), CIFAR),
        (networks.MlpNetwork(), Shapes((30,), 7, 20)),
        (networks.MlpNetwork(depth=1), DIGITS),
        (networks.VitNetwork(), DIGITS),
        (networks.VitNetwork(patch=4, width=32, layers=1), CIFAR),
        (networks.TorchvisionNetwork(), CIFAR),
        (networks.TorchvisionNetwork(backbone="resnet18"), MNIST),
        (networks.TorchvisionNetwork(backbone="densenet121", width=32), CIFAR),
        (networks.TorchvisionNetwork(backbone="mobilenet_v3_small", width=32), CIFAR),
        pytest.param(
            networks.TorchvisionNetwork(backbone="convnext_tiny", width=32),
            Shapes((1, 96, 96), 5, 3),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_network_fits_its_data_and_depends_on_x_and_z(settings, shapes):
    network = build_network(settings, shapes, initial_seed=1)
    check_network(network, shapes, "test")
    network.train()
    x, z = torch.randn(8, *shapes.input_shape), torch.randn(8, shapes.embedding_dim)
    x.requires_grad_()
    z.requires_grad_()
    logits = network(x, z)
    assert logits.shape == (8, shapes.classes)
    logits.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert z.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in network.parameters()), "every parameter is trained"


@pytest.mark.parametrize(
    "settings",
    [networks.PaperNetwork(), networks.SmallConvNetwork(), networks.MlpNetwork(), networks.VitNetwork(patch=4)],
)
def test_a_network_for_trained_weights_is_built_alike_and_nothing_is_drawn(settings):
    drawn, before = build_network(settings, MNIST, 0), torch.get_rng_state()
    network = undrawn_network(settings, MNIST)
    assert torch.equal(torch.get_rng_state(), before)
    network.load_state_dict(drawn.state_dict())
    x, z = torch.randn(2, 1, 28, 28), torch.randn(2, 10)
    assert torch.equal(network.eval()(x, z), drawn.eval()(x, z))
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_papers_network_has_two_million_parameters_on_mnist():
    parameters = sum(p.numel() for p in build_network(networks.PaperNetwork(), MNIST, 0).parameters())
    assert parameters == pytest.approx(2.0e6, rel=0.05)


def test_weights_are_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    one = build_network(networks.SmallConvNetwork(), DIGITS, 5).state_dict()
    torch.manual_seed(2)
    two = build_network(networks.SmallConvNetwork(), DIGITS, 5).state_dict()
    other = build_network(networks.SmallConvNetwork(), DIGITS, 6).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["image_path.0.weight"], other["image_path.0.weight"])


def test_building_and_checking_a_network_leaves_the_callers_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_network(build_network(networks.PaperNetwork(), MNIST, 9), MNIST, "test")
    assert torch.equal(torch.rand(4), expected)


def test_resnet_keeps_the_size_of_small_images():
    network = build_network(networks.TorchvisionNetwork(), CIFAR, 0)
    assert network.image_path.conv1.stride == (1, 1)
    assert isinstance(network.image_path.maxpool, nn.Identity)
    large = build_network(networks.TorchvisionNetwork(), Shapes((3, 224, 224), 10, 10), 0)
    assert large.image_path.conv1.stride == (2, 2)


@pytest.mark.parametrize(
    ("settings", "shapes", "message"),
    [
        (networks.PaperNetwork(), Shapes((1, 3, 3), 10, 10), "at least 4×4 pixels, the data has 3×3"),
        (networks.SmallConvNetwork(), Shapes((30,), 10, 10), r"takes images \(C, H, W\), the data has .*\(30,\)"),
        (networks.TorchvisionNetwork(backbone="resnet19"), CIFAR, "no classification network 'resnet19'"),
        (networks.CustomNetwork(path="nosuchmodule:Net"), CIFAR, "'nosuchmodule:Net' cannot be imported"),
        (networks.CustomNetwork(path="torch.nn:NoSuch"), CIFAR, "cannot be imported: AttributeError"),
        (networks.CustomNetwork(path="torch.nn"), CIFAR, "write package.module:Class"),
        (networks.CustomNetwork(path="math:sqrt"), CIFAR, "is no torch.nn.Module class"),
        (networks.CustomNetwork(path="torch.nn:Linear"), CIFAR, "could not be built: TypeError"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(settings, shapes, message):
    with pytest.raises(UserError, match=message) as refused:
        build_network(settings, shapes, 0)
    assert "\n" not in str(refused.value)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "class Good(nn.Module):\n"
        "    def __init__(self, input_shape, classes, embedding_dim, width=4):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(embedding_dim, classes)\n"
        "        self.width = width\n"
        "    def forward(self, x, z):\n"
        "        return self.layer(z)\n"
        "class WrongShape(Good):\n"
        "    def forward(self, x, z):\n"
        "        return super().forward(x, z)[:, :3]\n"
        "class Raises(Good):\n"
        "    def forward(self, x, z):\n"
        "        raise ValueError('needs a scarf')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_networks"
    sys.modules.pop("own_networks", None)


def test_a_users_own_class_is_built_with_the_shapes_and_arguments(own_module):
    settings = networks.CustomNetwork(path=f"{own_module}:Good", arguments={"width": 9})
    network = build_network(settings, DIGITS, 0)
    check_network(network, DIGITS, "block 1")
    assert network.width == 9


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WrongShape", r"block 7: the network returned \(2, 3\) for a batch of 2, logits of shape \(2, 10\)"),
        ("Raises", "block 7: .*ValueError: needs a scarf"),
    ],
)
def test_a_users_class_that_does_not_fit_is_refused_with_its_block(own_module, name, message):
    network = build_network(networks.CustomNetwork(path=f"{own_module}:{name}"), DIGITS, 0)
    with pytest.raises(UserError, match=message):
        check_network(network, DIGITS, "block 7")


@pytest.mark.parametrize(
    ("settings", "dim", "named"),
    [
        (networks.MlpNetwork(), 2_000_000_000, "embedding.dim=2000000000: .* take 1,981.9 GiB"),
        (
            networks.MlpNetwork(width=1_000_000_000),
            20,
            "blocks.network with kind=mlp, width=1000000000, .* GiB",
        ),
        (networks.VitNetwork(width=1_000_000), 20, "kind=vit, patch=2, width=1000000, layers=2, mlp_ratio=4: .* GiB"),
        (networks.SmallConvNetwork(channels=(2_000_000_000, 3)), 20, r"channels=\[2000000000, 3\], .* GiB"),
    ],
)
def test_sizes_beyond_this_machines_memory_are_told_with_the_setting_before_they_are_tried(settings, dim, named):
    with pytest.raises(UserError, match=f"{named}, and this machine has .* GiB of memory"):
        check_memory(settings, Shapes((1, 8, 8), 10, dim), 1)


def test_a_network_larger_than_memory_is_refused():
    told = "blocks.network: mlp cannot be built in these sizes: there is not enough memory for .* GiB at once"
    with pytest.raises(UserError, match=told):
        build_network(networks.MlpNetwork(width=2_000_000_000), Shapes((2_000_000,), 2, 2), 0)
