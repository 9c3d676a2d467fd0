"""The transformer block: what its logits depend on, attention, modulation, and stacks that are cut into blocks."""

import math

import pytest
import torch
from torch import nn

import noprop_dist
from noprop_dist.api import train
from noprop_dist.config import schema
from noprop_dist.config.layers import load_config
from noprop_dist.errors import UserError
from noprop_dist.models import features
from noprop_dist.models.build import build_network, undrawn_network
from noprop_dist.models.check import check_network
from noprop_dist.models.shapes import Shapes
from noprop_dist.models.vit import Attention, Layer, PatchEmbedding, VitNetwork
from noprop_dist.training.setup import prepare

DIGITS = Shapes((1, 8, 8), 10, 10)
TOLD_LEVELS = Shapes((1, 8, 8), 10, 10, takes_level=True)
Z_IS_IMAGE = Shapes((2, 8, 4), 5, 64)
SMALL = {"width": 16, "heads": 2}


def network_for(shapes, *, perturbed=True, **settings):
    """A network in evaluation mode; where gates begin at 0, its weights are drawn anew so that all take part."""
    network = build_network(schema.VitNetwork(**SMALL, **settings), shapes, 1).eval()
    if perturbed:
        draw = torch.Generator().manual_seed(2)
        for parameter in network.parameters():
            parameter.data.normal_(0, 0.2, generator=draw)
    return network


def inputs_for(shapes, batch=3):
    draw = torch.Generator().manual_seed(3)
    x, z = (torch.randn(batch, *size, generator=draw) for size in (shapes.input_shape, (shapes.embedding_dim,)))
    level = (torch.linspace(-6, 6, batch),) if shapes.takes_level else ()
    return x, z, *level


VARIANTS = [
    pytest.param(DIGITS, {}, id="token"),
    pytest.param(DIGITS, {"z_enters": "adaln"}, id="adaln"),
    pytest.param(TOLD_LEVELS, {}, id="token and level"),
    pytest.param(TOLD_LEVELS, {"z_enters": "adaln"}, id="adaln and level"),
    pytest.param(Z_IS_IMAGE, {}, id="z is an image"),
    pytest.param(Z_IS_IMAGE, {"z_enters": "adaln"}, id="z is an image, adaln"),
    pytest.param(DIGITS, {"layers": 1, "patch": 8}, id="one layer, one patch"),
]


@pytest.mark.parametrize(("shapes", "settings"), VARIANTS)
def test_logits_depend_on_every_patch_on_z_and_on_the_level(shapes, settings):
    network, (x, *others) = network_for(shapes, **settings), inputs_for(shapes)
    check_network(network, shapes, "test")
    patch = settings.get("patch", 2)
    with torch.inference_mode():
        before = network(x, *others)
        assert before.shape == (3, shapes.classes)
        for row in range(0, x.shape[2], patch):
            for column in range(0, x.shape[3], patch):
                changed = x.clone()
                changed[:, :, row : row + patch, column : column + patch] += 1
                assert not torch.allclose(network(changed, *others), before, atol=1e-5), (row, column)
        for place, other in enumerate(others):
            changed = [each + 1 if index == place else each for index, each in enumerate(others)]
            assert not torch.allclose(network(x, *changed), before, atol=1e-5), other.shape


@pytest.mark.parametrize(("shapes", "settings"), VARIANTS)
def test_every_weight_is_trained(shapes, settings):
    network = network_for(shapes, **settings).train()
    network(*inputs_for(shapes)).square().sum().backward()
    assert [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()] == []


@pytest.mark.parametrize(("shapes", "settings"), VARIANTS)
def test_tokens_of_the_image_are_shared_by_several_z_bit_for_bit(shapes, settings):
    network, (x, z, *level) = network_for(shapes, **settings), inputs_for(shapes)
    with torch.inference_mode():
        tokens = features.image_features(network, x)
        assert tokens.shape == (3, math.prod(x.shape[2:]) // settings.get("patch", 2) ** 2, SMALL["width"])
        for each in (z, -z):
            assert torch.equal(features.logits(network, tokens, each, *level), network(x, each, *level))


def test_attention_is_the_softmax_of_scaled_products():
    torch.manual_seed(0)
    tokens, heads, width = torch.randn(3, 7, 12, dtype=torch.float64), 4, 12
    attention = Attention(width, heads).double()
    q, (k, v) = attention.query(tokens), attention.key_value(tokens).chunk(2, dim=-1)
    expected = torch.empty(3, 7, width, dtype=torch.float64)
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        weights = torch.softmax(q[..., part] @ k[..., part].mT / math.sqrt(width / heads), dim=-1)
        expected[..., part] = weights @ v[..., part]
    torch.testing.assert_close(attention(tokens), attention.out(expected), atol=1e-12, rtol=0)


def test_the_last_layer_computes_the_class_token_as_if_it_computed_all():
    torch.manual_seed(0)
    sizes = {"width": 12, "heads": 4, "mlp_ratio": 4, "dropout": 0.0, "is_modulated": True}
    whole, alone = Layer(**sizes).double(), Layer(**sizes, kept=1).double()
    for parameter in whole.parameters():
        parameter.data.normal_()
    alone.load_state_dict(whole.state_dict())
    tokens, condition = torch.randn(2, 9, 12, dtype=torch.float64), torch.randn(2, 64, dtype=torch.float64)
    torch.testing.assert_close(alone(tokens, condition), whole(tokens, condition)[:, :1], atol=1e-12, rtol=0)
    kept = [layer.attention.inner._kept for layer in network_for(DIGITS, layers=3).layers]
    assert kept == [None, None, 1]


def test_a_modulated_layer_begins_as_the_identity_and_learns():
    network = network_for(TOLD_LEVELS, perturbed=False, layers=3)
    tokens, condition = torch.randn(4, 18, SMALL["width"]), torch.randn(4, 64)
    assert torch.equal(network.layers[0](tokens, condition), tokens)
    assert torch.equal(network.layers[-1](tokens, condition), tokens[:, :1])
    network(*inputs_for(TOLD_LEVELS)).square().sum().backward()
    gates = [branch.modulation[-1].weight.grad[-SMALL["width"] :] for branch in network.layers[0].children()]
    assert all(gate.any() for gate in gates)


def test_patches_are_read_row_by_row():
    cut = PatchEmbedding((2, 4, 6), 2, 8)
    cut.embed, cut.positions.data = nn.Identity(), torch.zeros(6, 8)
    x = torch.arange(48.0).reshape(1, 2, 4, 6)
    expected = [x[0, :, r : r + 2, c : c + 2].flatten() for r in (0, 2) for c in (0, 2, 4)]
    assert torch.equal(cut(x)[0], torch.stack(expected))
    assert torch.equal(cut(x.to(memory_format=torch.channels_last))[0], torch.stack(expected))


@pytest.mark.parametrize(("shapes", "settings"), VARIANTS)
def test_weights_are_a_function_of_the_seed_alone(shapes, settings):
    one, two = (network_for(shapes, perturbed=False, **settings).state_dict() for _ in range(2))
    other = build_network(schema.VitNetwork(**SMALL, **settings), shapes, 2).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    drawn = {name for name in one if not torch.equal(one[name], other[name])}
    constant = {name for name in one if "norm" in name or ".modulation." in name or name.startswith("head.0.")}
    assert drawn == {*one} - constant


@pytest.mark.parametrize(("shapes", "settings"), VARIANTS)
def test_a_network_for_trained_weights_is_the_same_once_it_has_them(shapes, settings):
    trained, before = network_for(shapes, **settings), torch.get_rng_state()
    network = undrawn_network(schema.VitNetwork(**SMALL, **settings), shapes).eval()
    assert torch.equal(torch.get_rng_state(), before)
    network.load_state_dict(trained.state_dict())
    assert torch.equal(network(*inputs_for(shapes)), trained(*inputs_for(shapes)))


def test_dropout_is_of_what_layers_add_and_of_training_alone():
    network = network_for(DIGITS, dropout=0.5)
    with torch.no_grad():
        assert torch.equal(network(*inputs_for(DIGITS)), network(*inputs_for(DIGITS)))
        network.train()
        assert not torch.equal(network(*inputs_for(DIGITS)), network(*inputs_for(DIGITS)))


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({}, 103_000),
        ({"stack": 12, "patch": 4, "width": 128, "mlp_ratio": 24, "dropout": 0.1}, 3_470_000),
        ({"stack": 12, "patch": 4, "width": 384, "heads": 6}, 7_220_000),
    ],
)
def test_sizes_are_those_that_the_how_to_tells(settings, weights):
    shapes = Shapes((3, 32, 32), 100, 100) if settings else DIGITS
    blocks = schema.BlockSettings(count=3, network=schema.VitNetwork(**settings))
    with torch.device("meta"):
        network = build_network(blocks.network_of(1), shapes, 0)
    assert sum(each.numel() for each in network.parameters()) == pytest.approx(weights, rel=0.01)


@pytest.mark.parametrize(
    ("total", "blocks", "layers"),
    [(12, 3, (4, 4, 4)), (8, 3, (3, 3, 2)), (7, 3, (3, 2, 2)), (5, 5, (1,) * 5), (6, 1, (6,))],
)
def test_a_stack_is_cut_as_evenly_as_possible(total, blocks, layers):
    assert noprop_dist.slice_layers(total, blocks) == layers


def test_a_stack_without_a_layer_for_every_block_is_not_cut():
    with pytest.raises(UserError, match=r"blocks=3: must be within 1\.\.2, so that every block has a layer"):
        noprop_dist.slice_layers(2, 3)


@pytest.mark.parametrize(
    ("total", "blocks", "told"),
    [(3, 0, "blocks=0"), (3, -1, "blocks=-1"), (0, 0, "total=0"), ("8", 3, "total='8'"), (8, 2.0, "blocks=2.0")],
)
def test_a_stack_is_cut_by_whole_numbers_alone(total, blocks, told):
    with pytest.raises(UserError, match=f"{told}: must be a whole number, at least 1"):
        noprop_dist.slice_layers(total, blocks)


def test_every_block_has_its_part_of_a_stack(small_config):
    own = "blocks.networks.2={kind: vit, width: 8, stack: 5}"
    plan = prepare(small_config("blocks.network={kind: vit, width: 16, stack: 7, layers: 1}", own))[0].plan
    networks = [plan.block_network(t) for t in (1, 2, 3)]
    assert [len(network.layers) for network in networks] == [3, 2, 2]
    assert [network.class_token.shape[1] for network in networks] == [16, 8, 16]
    alone = small_config("blocks.network={kind: vit, width: 16, layers: 3}").blocks.network_of(1)
    assert plan.config.blocks.network_of(1) == alone


def test_layers_that_a_stack_stands_in_place_of_are_told():
    told = []
    load_config("digits", None, ["blocks.network={kind: vit, stack: 12, layers: 3}"], told.append)
    assert told == ["blocks.network.layers: no effect with blocks.network.stack=12"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["blocks.network={kind: vit, heads: 5}"], "blocks.network: heads=5 must divide width=64"),
        (["blocks.network={kind: vit, layers: 0}"], "blocks.network.layers: 0 is not allowed"),
        (["blocks.network={kind: vit, z_enters: sideways}"], "z_enters: 'sideways' is not allowed.*'token' or 'adaln'"),
        (["blocks.network={kind: vit, stack: 9}"], "blocks: network.stack=9 must be at least count=10"),
        (["blocks.networks.3={kind: vit, stack: 1}"], "blocks: networks.3.stack=1 must be at least count=10"),
    ],
)
def test_settings_that_make_no_transformer_are_refused(settings, message):
    with pytest.raises(UserError, match=message) as refused:
        load_config("digits", None, settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("shapes", "patch", "message"),
    [
        (Shapes((1, 28, 28), 10, 10), 8, "blocks.network.patch=8: .* 28×28 pixels; allowed are 1, 2, 4, 7, 14, 28"),
        (Shapes((3, 8, 12), 10, 10), 8, "blocks.network.patch=8: .* 8×12 pixels; allowed are 1, 2, 4"),
        (Shapes((30,), 10, 10), 2, r"the vit network takes images \(C, H, W\), the data has .*\(30,\)"),
    ],
)
def test_images_that_patches_do_not_fill_are_refused(shapes, patch, message):
    with pytest.raises(UserError, match=message) as refused:
        VitNetwork(shapes, patch=patch)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("z_enters", ["token", "adaln"])
def test_digits_are_learned_by_a_stack_in_three_blocks(tmp_path, z_enters):
    network = f"blocks.network={{kind: vit, stack: 3, z_enters: {z_enters}}}"
    settings = [network, "blocks.count=3", "engine.kind=sequential", "training.learning_rate=0.003",
                "training.max_steps=200", "checkpoint.every_steps=200"]  # fmt: skip
    evaluation = train(load_config("digits", None, settings), str(tmp_path / "run")).evaluation
    test = {result.sampler: result.accuracy for split, result in evaluation.results if split == "test"}
    assert test["mean"] > 0.9
    assert test["stochastic"] > 0.85
