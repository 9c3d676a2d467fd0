"""Blocks that own a range of noise levels: section 6 of the mathematics against numerical integrals and autograd."""

import math
import re
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from single_steps import take_step
from torch import nn
from untrained import images_for, python, untrained, untrained_network

import noprop_dist
from noprop_dist.cli.app import main
from noprop_dist.config.layers import load_config
from noprop_dist.data.dataset import Split
from noprop_dist.data.samples import Samples
from noprop_dist.diffusion.noise_range import NoiseRange, log_snr, range_of_block
from noprop_dist.diffusion.objective import predict_embedding, squared_error
from noprop_dist.diffusion.process import noisy_embedding, noisy_embedding_at
from noprop_dist.diffusion.reverse import reverse_process
from noprop_dist.diffusion.schedule import Schedule, cosine, equal_probability, linear
from noprop_dist.errors import UserError
from noprop_dist.inference.classifier import NoPropClassifier
from noprop_dist.inference.evaluation import evaluate_terms
from noprop_dist.models.noise_level import LevelFeatures
from noprop_dist.stages import CLASSIFIER, block
from noprop_dist.storage.snapshot import to_tensors
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.setup import prepare

CPU = torch.device("cpu")
SCHEDULES = [cosine(10), linear(4), equal_probability(10), Schedule((0.01, 0.2, 0.25, 0.9)), cosine(1)]
SHAPES = list(product(["log-uniform", "log-normal"], ["snr", "edm"]))
RANGE = "blocks.noise={kind: range}"


def middles(count):
    """The middle of each of so many equal parts of [0, 1]."""
    return (np.arange(count) + 0.5) / count


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("density", "weighting"), SHAPES)
@pytest.mark.parametrize("overlap", [0.0, 0.05])
def test_the_expectation_of_the_weight_is_that_of_eq_8(schedule, density, weighting, overlap):
    """The expectation is taken over λ by Gauss-Legendre quadrature, with densities of their own."""
    nodes, shares = np.polynomial.legendre.leggauss(60)
    for t in range(1, schedule.T + 1):
        its_range = range_of_block(schedule, t, density, weighting, overlap=overlap)
        levels_of = np.interp((nodes + 1) / 2, [0, 1], [log_snr(its_range.lowest), log_snr(its_range.highest)])
        normal = np.exp(-((-levels_of / 2 + 1.2) ** 2) / (2 * 1.2**2))  # of ln σ = −λ/2
        p = shares * (normal if density == "log-normal" else 1)
        weights = schedule.snr_gain(t) * its_range.relative_weight(1 / (1 + np.exp(-levels_of)))
        assert (weights * p).sum() / p.sum() == pytest.approx(schedule.snr_gain(t), rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("density", ["log-uniform", "log-normal"])
def test_the_snr_weight_is_the_snr_over_the_density_that_levels_are_drawn_from(schedule, density):
    """1 / p(λ) is dλ/du, taken numerically from what is drawn."""
    for t in range(1, schedule.T + 1):
        its_range, u, h = range_of_block(schedule, t, density, "snr"), middles(50), 1e-6
        levels = its_range.draw(np.stack([u - h, u, u + h]))
        before, at, after = np.log(levels / (1 - levels))
        weight = schedule.snr_gain(t) * its_range.relative_weight(levels[1])
        np.testing.assert_allclose(weight, np.exp(at) * (after - before) / (2 * h), rtol=1e-5)


def test_edm_weights_are_those_of_edm_up_to_a_factor():
    its_range = range_of_block(cosine(5), 3, "log-normal", "edm")
    levels = its_range.draw(middles(20))
    sigma = np.sqrt((1 - levels) / levels)
    edm = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    np.testing.assert_allclose(its_range.relative_weight(levels) / edm, its_range.relative_weight(levels)[0] / edm[0])


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("density", ["log-uniform", "log-normal"])
def test_ranges_tile_the_levels_without_gap_and_draws_stay_within(schedule, density):
    ranges = [range_of_block(schedule, t, density, "snr") for t in range(1, schedule.T + 1)]
    for t, its_range in enumerate(ranges, start=1):
        assert its_range.lowest == schedule.alpha_bar[t - 1]
        assert its_range.highest == pytest.approx(schedule.alpha_bar[t], rel=1e-14)
        drawn = its_range.draw(np.random.default_rng(t).random(10_000))
        assert its_range.lowest <= drawn.min() < drawn.max() <= its_range.highest
    for before, after in pairwise(ranges):
        assert after.lowest == pytest.approx(before.highest, rel=1e-14)


def test_an_overlap_makes_a_range_longer_by_that_share_of_its_width_in_lambda():
    its_range, wider = (range_of_block(cosine(10), 4, "log-uniform", "snr", overlap=each) for each in (0, 0.05))
    assert log_snr(its_range.lowest) - log_snr(wider.lowest) == pytest.approx(0.05 * its_range.width)
    assert log_snr(wider.highest) - log_snr(its_range.highest) == pytest.approx(0.05 * its_range.width)


@pytest.mark.parametrize(("density", "weighting"), SHAPES)
def test_a_range_of_width_0_is_one_level_to_the_last_bit(density, weighting):
    for t, level in enumerate(cosine(10).alpha_bar[:-1], start=1):
        its_range = range_of_block(cosine(10), t, density, weighting, width=0, overlap=0.05)
        assert its_range.is_point
        assert set(its_range.draw(middles(9))) == {level}
        assert set(its_range.relative_weight(its_range.draw(middles(9)))) == {1.0}


def test_samples_at_levels_of_their_own_have_the_bits_of_samples_at_one_level():
    random = np.random.default_rng(0)
    u_y, epsilon = (random.standard_normal((6, 4), dtype=np.float32) for _ in range(2))
    for level in cosine(10).alpha_bar:
        levels = np.full(6, level)
        assert (noisy_embedding_at(u_y, epsilon, levels) == noisy_embedding(u_y, epsilon, level)).all()
        in_torch = noisy_embedding_at(torch.from_numpy(u_y), torch.from_numpy(epsilon), levels)
        assert (in_torch == noisy_embedding(torch.from_numpy(u_y), torch.from_numpy(epsilon), level)).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_perfect_blocks_carry_q_of_z0_to_q_of_zT_in_any_number_of_steps(schedule, steps):
    """Mean and variance of Eq. 3 with û = u_y, in float64."""
    levels = schedule.refined(steps)
    mean, variance = math.sqrt(levels.alpha_bar[0]), 1 - levels.alpha_bar[0]
    for step in range(1, levels.T + 1):
        mean = levels.a(step) + levels.b(step) * mean
        variance = levels.b(step) ** 2 * variance + levels.c(step)
    assert mean == pytest.approx(math.sqrt(schedule.alpha_bar[-1]), rel=1e-11)
    assert variance == pytest.approx(1 - schedule.alpha_bar[-1], rel=1e-11)


@pytest.mark.parametrize("steps", [1, 3])
def test_steps_within_a_block_are_equal_in_lambda_and_leave_its_borders_alone(steps):
    schedule = cosine(4)
    levels = schedule.refined(steps)
    assert levels.alpha_bar[::steps] == schedule.alpha_bar
    for t in range(1, 5):
        within = [levels.log_snr(s) for s in range((t - 1) * steps, t * steps + 1)]
        np.testing.assert_allclose(np.diff(within), (schedule.log_snr(t) - schedule.log_snr(t - 1)) / steps)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ([RANGE, "blocks.count=1"], ["blocks.noise.weight=snr: one block for all noise levels"]),
        (["blocks.noise={kind: range, weight: edm}", "blocks.count=1"], []),
        ([RANGE], []),
        (["blocks.count=1"], []),
        (
            ["blocks.noise={kind: range, width: 0, weight: edm}"],
            ["blocks.noise.weight: no effect with"],
        ),
    ],
)
def test_noise_settings_that_do_nothing_or_train_badly_are_told(settings, told):
    lines = []
    load_config("digits", None, settings, lines.append)
    assert [line[: len(each)] for line, each in zip(lines, told, strict=True)] == told


NARROW = "schedule={kind: list, alpha_bar: [0.1, 0.1000000000000002, 0.5, 0.9]}"


def test_more_steps_than_there_are_levels_are_refused_before_anything_is_trained(small_config, tmp_path):
    with pytest.raises(UserError, match="steps_per_block=100: the levels of block 1, alpha_bar from 0.1 to 0.100000"):
        small_config(RANGE, NARROW, "evaluation.steps_per_block=100")
    run = noprop_dist.train(small_config(RANGE, NARROW, "engine.kind=sequential"), tmp_path / "run")
    with pytest.raises(UserError, match="steps_per_block=100: the levels of block 1"):
        noprop_dist.evaluate(run, steps_per_block=100)


def test_a_chain_calls_each_block_at_the_levels_of_its_own_range():
    called = []

    def named(number):
        return lambda x, z, log_snr: called.append((number, float(log_snr[0]))) or torch.zeros(len(z), 1)

    schedule = cosine(2)
    links = list(
        reverse_process([named(1), named(2)], schedule, torch.ones(1, 1), torch.empty(5, 0), torch.zeros(5, 1),
                        steps_per_block=2, takes_level=True)
    )  # fmt: skip
    assert [link.t for link in links] == [1, 2]
    assert [number for number, _ in called] == [1, 1, 2, 2]
    levels = schedule.refined(2)
    np.testing.assert_allclose([at for _, at in called], [levels.log_snr(s) for s in range(4)], rtol=1e-6)


def test_gradients_are_those_of_the_integral_that_the_levels_are_a_sample_of(small_config):
    """SGD with learning rate 1: the step is minus the gradient. The weight SNR / p(λ) is written out here."""
    setup, data = prepare(
        small_config("training.optimizer=sgd", "training.learning_rate=1", "training.weight_decay=0",
                     "blocks.noise={kind: range, overlap: 0}")
    )  # fmt: skip
    stream, samples = setup.batch_stream(data.train.labels), setup.training_samples(data.train.inputs, CPU)
    schedule = setup.plan.schedule
    for t in (1, 2, 3):
        network, batch = setup.plan.block_network(t).train(), stream.batch(block(t), 0)
        labels, snr = torch.from_numpy(batch.labels).long(), torch.from_numpy(batch.levels / (1 - batch.levels))
        x, z = samples.batch(batch.indices), torch.from_numpy(batch.z)
        u_hat = predict_embedding(network(x, z, snr.log().float()), setup.embedding)
        errors = (u_hat - setup.embedding[labels]).square().sum(dim=-1)
        density = 1 / (schedule.log_snr(t) - schedule.log_snr(t - 1))
        (0.5 * schedule.T * 0.1 * (snr / density) * errors).mean().backward()
        trainer = setup.block_trainer(t, samples, CPU)
        take_step(trainer, stream, 0)
        stepped = to_tensors(trainer.snapshot().weights)
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(stepped[name], parameter.detach() - parameter.grad, rtol=1e-5, atol=1e-6)


def test_a_learned_w_embed_gets_its_gradient_through_every_samples_own_level(small_config):
    setup, data = prepare(small_config(RANGE, "embedding={kind: learned, dim: 5, sync_steps: 1}"))
    stream, samples = setup.batch_stream(data.train.labels), setup.training_samples(data.train.inputs, CPU)
    batch, its_range = stream.batch(block(2), 0), setup.plan.noise_ranges[block(2)]
    W = setup.embedding.requires_grad_()
    u_y = W[torch.from_numpy(batch.labels).long()]
    levels = torch.from_numpy(batch.levels)[:, None]
    epsilon = (torch.from_numpy(batch.z) - levels.sqrt() * u_y.detach()) / (1 - levels).sqrt()
    z = (levels.sqrt() * u_y + (1 - levels).sqrt() * epsilon).float()
    log_snr_of_z = (levels / (1 - levels)).log().float()[:, 0]
    u_hat = predict_embedding(setup.plan.block_network(2).train()(samples.batch(batch.indices), z, log_snr_of_z), W)
    weights = torch.from_numpy(its_range.relative_weight(batch.levels)).float()
    scale = 0.5 * setup.plan.schedule.T * 0.1 * setup.plan.schedule.snr_gain(2)
    (scale * (weights * (u_hat - u_y).square().sum(dim=-1)).mean()).backward()
    report = take_step(setup.block_trainer(2, samples, CPU), stream, 0)
    np.testing.assert_allclose(report.embedding_gradient, W.grad, rtol=1e-4, atol=1e-6)


def test_levels_depend_on_seed_block_and_step_and_on_nothing_else(small_config):
    setup, data = prepare(small_config(RANGE))
    stream = setup.batch_stream(data.train.labels)
    whole = stream.round(RoundKey(block(2), 0, 6)).levels
    parts = [setup.batch_stream(data.train.labels).round(RoundKey(block(2), first, 3)).levels for first in (0, 3)]
    assert (whole == np.concatenate(parts)).all()
    assert len({each.tobytes() for each in [*whole, stream.batch(block(1), 0).levels]}) == 7
    assert stream.round(RoundKey(CLASSIFIER, 0, 2)).levels is None


def test_a_term_of_eq_8_is_the_integral_over_the_blocks_range():
    """Blocks whose answer depends on λ alone, so that the integral can be taken numerically."""

    class OfLevel(nn.Module):
        def forward(self, x, z, log_snr):
            return torch.stack([log_snr, torch.zeros_like(log_snr)], dim=1)

    network, _ = untrained_network(RANGE, "blocks.network={kind: mlp, width: 8, depth: 1}", classes=2)
    network = replace(network, blocks=(OfLevel(),) * 3)
    labels = np.zeros(5_000, dtype=np.int64)
    split = Split(np.zeros((len(labels), 1, 8, 8), dtype=np.uint8), labels)
    measured = evaluate_terms(network, split, eta=1.0).denoising_terms
    for t in range(1, 4):
        snr = network.schedule.snr(t - 1) + middles(1_000_000) * network.schedule.snr_gain(t)
        error = 2 * (1 - snr / (1 + snr)) ** 2  # softmax of (λ, 0) is (SNR, 1) / (1 + SNR)
        expected = 0.5 * network.schedule.snr_gain(t) * error.mean()
        assert measured[t - 1] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("kind", ["mlp", "small-conv", "paper", "torchvision"])
def test_each_network_hears_of_the_level(small_config, kind):
    backbone = ", backbone: mobilenet_v3_small" if kind == "torchvision" else ""
    setup, _ = prepare(small_config(f"blocks.network={{kind: {kind}{backbone}}}", RANGE))
    network = setup.plan.block_network(1).eval()
    x, z, low, high = torch.rand(4, 1, 8, 8), torch.randn(4, 10), torch.full((4,), -3.0), torch.full((4,), 3.0)
    assert not torch.allclose(network(x, z, low), network(x, z, high))


def test_levels_near_each_other_look_alike_and_no_two_look_the_same():
    features = LevelFeatures()(torch.arange(-8.0, 8.0, 0.1))
    distances = torch.cdist(features, features)
    assert distances.diagonal(1).max() < 0.5
    assert (distances + torch.eye(len(features))).min() > 0.2
    assert distances.diagonal(10).min() > 4 * distances.diagonal(1).max()


class WithoutLevel(nn.Module):
    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.linear = nn.Linear(math.prod(input_shape) + embedding_dim, classes)

    def forward(self, x, z):
        return self.linear(torch.cat([x.flatten(1), z], dim=1))


OWN = "blocks.network={kind: custom, path: 'test_noise_ranges:WithoutLevel'}"


def test_a_network_that_takes_no_level_is_refused_for_a_range_and_works_at_a_point(small_config):
    with pytest.raises(UserError, match=r"takes no noise level.*forward\(x, z, log_snr\)"):
        prepare(small_config(OWN, RANGE))
    prepare(small_config(OWN))
    prepare(small_config(OWN, "blocks.noise={kind: range, width: 0}"))


class WithLevel(WithoutLevel):
    def forward(self, x, z, log_snr):
        return super().forward(x, z) + log_snr[:, None]


def test_a_network_of_ones_own_that_takes_a_level_trains_and_is_measured(small_config, tmp_path):
    own = "blocks.network={kind: custom, path: 'test_noise_ranges:WithLevel'}"
    config = small_config(own, RANGE, "engine.kind=sequential", "evaluation.steps_per_block=2")
    assert noprop_dist.plan(config).footprints[1].parameters
    run = noprop_dist.train(config, tmp_path / "run")
    terms = noprop_dist.evaluate(run, steps_per_block=1, trust_code=True).terms
    assert all(math.isfinite(each) for each in terms.squared_errors)
    noprop_dist.report(run, trust_code=True)
    assert (tmp_path / "run/plots/levels.png").stat().st_size > 10_000


def test_steps_per_block_are_chosen_and_told_wherever_a_run_is_used(small_config, tmp_path, capsys):
    run = noprop_dist.train(small_config(RANGE, "engine.kind=sequential"), tmp_path / "run")
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path / "run"), "--steps-per-block", "3", "--per-block"])
    told = " ".join(capsys.readouterr().out.split())
    assert "mean sampler, 1 pass(es), 3 step(s) per block" in told
    assert "one step" in told, "which is what a block alone takes"
    for steps, accuracies in ((1, True), (3, False)):
        folder = tmp_path / f"by {steps}"
        noprop_dist.export(run, "safetensors", folder, steps_per_block=steps)
        card = (folder / "README.md").read_text()
        assert f"steps per block: {steps}." in card
        assert ("accuracy test" in card) == accuracies, "they are of one step per block"
    with pytest.raises(UserError, match="at most 3,333 a block"):
        noprop_dist.load(run, steps_per_block=4000)


def test_runs_that_take_other_steps_are_merged_with_a_word(small_config, tmp_path):
    parts = [
        noprop_dist.train(small_config(RANGE, "engine.kind=sequential", *more), tmp_path / more[0])
        for more in (["blocks.only=1"], ["blocks.only=2-3", "evaluation.steps_per_block=2"])
    ]
    (told,) = noprop_dist.merge(tmp_path / "merged", parts).warnings
    assert re.search(r"evaluation.steps_per_block is 1 in .*, 2 in .*; the first is taken", told)


@pytest.mark.parametrize("sampler", ["mean", "stochastic"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_module_answers_as_the_network_does(sampler, steps):
    network, card = untrained_network(RANGE, "blocks.network={kind: mlp, width: 16, depth: 1}")
    network = replace(network, steps_per_block=steps)
    classifier = NoPropClassifier.of(network, card, sampler, 2)
    images = images_for(classifier, 6)
    x = Samples(images.numpy(), network.facts, CPU).batch(np.arange(6))
    torch.testing.assert_close(
        classifier.predict_proba(images), network.decide(x, sampler, 2, batch=None).probabilities, rtol=1e-5, atol=1e-6
    )
    assert classifier.chain(images).shape[0] == 3 * steps + 1


def test_a_module_is_saved_and_read_with_its_levels(tmp_path):
    classifier = untrained(RANGE, "blocks.network={kind: mlp, width: 16, depth: 1}")
    classifier.save_pretrained(tmp_path / "saved")
    again = NoPropClassifier.from_pretrained(tmp_path / "saved")
    images = images_for(classifier, 5)
    assert torch.equal(again.predict_proba(images), classifier.predict_proba(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["evaluation.steps_per_block=2"], "evaluation.steps_per_block=2 needs blocks.noise.kind=range"),
        (["blocks.noise={kind: range, width: 0}", "evaluation.steps_per_block=2"], "needs blocks.noise.kind=range"),
        (["blocks.noise={kind: range, overlap: 1.5}"], "blocks.noise.overlap"),
        (["blocks.noise={kind: range, width: -1}"], "blocks.noise.width"),
        (["blocks.noise={kind: range, width: 1.0e-17}"], "width=1e-17: block 1's range is too narrow"),
        (
            ["blocks.noise={kind: range}", "blocks.count=3", "evaluation.steps_per_block=3334"],
            "evaluation.steps_per_block=3334: .* may take 10,000 steps in all, so at most 3,333 a block",
        ),
        (["blocks.noise={kind: band}"], "blocks.noise.kind"),
        (
            ["blocks.noise={kind: range, density: log-normal}", "blocks.count=2",
             "schedule={kind: list, alpha_bar: [1.0e-20, 1.0e-12, 0.9]}"],
            "blocks.noise.density=log-normal: block 1's range",
        ),
        (
            ["blocks.noise={kind: range}", "blocks.count=1",
             "schedule={kind: list, alpha_bar: [0.1, 0.9999999999999999]}"],
            "blocks.noise.overlap=0.05: the range of block 1",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_sentence(small_config, settings, message):
    with pytest.raises(UserError, match=message):
        small_config(*settings)


def test_a_point_of_a_range_has_the_error_of_a_point(small_config):
    """At width 0 all is as without a range: the batch, the loss, every weight."""
    reports = []
    for noise in ("{kind: point}", "{kind: range, width: 0, density: log-normal, weight: edm}"):
        setup, data = prepare(small_config(f"blocks.noise={noise}"))
        stream, samples = setup.batch_stream(data.train.labels), setup.training_samples(data.train.inputs, CPU)
        trainer = setup.block_trainer(2, samples, CPU)
        rounds = [take_step(trainer, stream, step) for step in range(3)]
        reports.append(
            ([each.loss for each in rounds], {n: a.tobytes() for n, a in trainer.snapshot().weights.items()})
        )
    assert reports[0] == reports[1]


def test_a_configuration_with_a_range_is_read_without_torch():
    code = "import sys; from noprop_dist.config.layers import load_config; "
    code += "load_config('digits', None, ['blocks.noise={kind: range, density: log-normal}']); "
    assert python(code + "print('torch' in sys.modules)").strip() == "False"


def test_the_mean_error_is_told_without_weights(small_config):
    setup, data = prepare(small_config(RANGE))
    stream, samples = setup.batch_stream(data.train.labels), setup.training_samples(data.train.inputs, CPU)
    batch = stream.batch(block(3), 0)
    level = torch.from_numpy(np.log(batch.levels / (1 - batch.levels))).float()
    logits = setup.plan.block_network(3).train()(samples.batch(batch.indices), torch.from_numpy(batch.z), level)
    u_y = setup.embedding[torch.from_numpy(batch.labels).long()]
    expected = squared_error(predict_embedding(logits, setup.embedding), u_y).item()
    assert take_step(setup.block_trainer(3, samples, CPU), stream, 0).error == pytest.approx(expected, rel=1e-5)
    assert NoiseRange(0.1, 0.1).is_point
