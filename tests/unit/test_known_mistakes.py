"""One test for each mistake that public implementations of NoProp were found to make."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from single_steps import take_step

from noprop_dist.api import open_run, train
from noprop_dist.config.layers import load_config
from noprop_dist.data.dataset import Split
from noprop_dist.data.load import load_data
from noprop_dist.diffusion.objective import denoising_weight
from noprop_dist.diffusion.schedule import cosine
from noprop_dist.inference.evaluation import evaluate, evaluate_blocks, evaluate_terms
from noprop_dist.inference.network import NoPropNetwork
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import block
from noprop_dist.training.setup import prepare


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The digits preset, trained for long enough that its chain is worth measuring."""
    config = load_config("digits", None, ["engine.kind=sequential", "blocks.count=5", "training.max_steps=80"])
    folder = str(tmp_path_factory.mktemp("trained") / "run")
    train(config, folder)
    return open_run(folder, "cpu").network, load_data(config.data).held_out.test


def test_no_block_is_rewarded_for_its_error():
    """ᾱ falling with t makes SNR(t) − SNR(t−1) negative: blocks then maximise their error."""
    for T in (1, 10, 100):
        assert all(denoising_weight(cosine(T), t, eta=0.1) > 0 for t in range(1, T + 1))


def test_the_trained_chain_beats_its_parts(trained):
    network, test = trained
    blocks = evaluate_blocks(network, test, "mean")
    whole = evaluate(network, test, "mean").accuracy
    assert whole > 0.97
    assert whole > blocks[-1].alone + 0.2, "the last block alone does not decide what the whole network says"
    assert whole >= max(block.alone for block in blocks) - 0.01


def test_a_block_is_used_at_the_noise_level_that_it_was_trained_at(small_setup, monkeypatch):
    """Block t is trained on q(z_{t-1} | y) and applied to z_{t-1}: the same index, hence the same mean and variance."""
    setup, data = small_setup
    stream = setup.batch_stream(data.train.labels)
    u_y_only = [lambda x, z: 1e6 * setup.embedding[x]] * setup.plan.schedule.T  # perfect blocks: x is the label
    network = NoPropNetwork(u_y_only, None, setup.embedding, setup.plan.schedule, setup.plan.facts, seed=0)
    labels = torch.from_numpy(np.resize(data.train.labels, 20_000))
    reached = {0: network.noise(len(labels), 0, 0, 0)} | {
        link.t: link.z for link in network.chain(labels, "stochastic")
    }
    for t in range(1, setup.plan.schedule.T + 1):
        trained_on = np.concatenate([stream.batch(block(t), step).z for step in range(100)])
        assert float(reached[t - 1].mean()) == pytest.approx(float(trained_on.mean()), abs=0.02)
        assert float(reached[t - 1].var()) == pytest.approx(float(trained_on.var()), abs=0.03)


def test_on_images_of_pure_noise_accuracy_is_chance(trained):
    """An evaluation that builds z_T from the true label scores 100 % on random images too."""
    network, _ = trained
    random = np.random.default_rng(0)
    noise = Split(random.integers(0, 256, (2000, 1, 8, 8), dtype=np.uint8), random.integers(0, 10, 2000))
    for sampler in ("mean", "stochastic"):
        assert evaluate(network, noise, sampler).accuracy == pytest.approx(0.1, abs=0.03)


def test_predictions_do_not_depend_on_the_labels(trained):
    """`evaluate` gets no label before it has decided: with other labels the decisions are the same."""
    network, test = trained
    right = evaluate(network, test, "mean").accuracy
    shifted = evaluate(network, replace(test, labels=(test.labels + 1) % 10), "mean").accuracy
    assert shifted <= 1 - right + 1e-9


def test_no_block_ignores_the_image(trained):
    """A block that saw the clean label in training copies z and scores chance alone; where z is noise, none may."""
    network, test = trained
    first, *_ = evaluate_blocks(network, test, "mean")
    assert first.alone > 0.9


def test_the_update_of_one_block_changes_no_other_parameter(small_setup):
    setup, data = small_setup
    device = torch.device("cpu")
    samples = setup.training_samples(data.train.inputs, device)
    trainers = [setup.block_trainer(t, samples, device) for t in (1, 2, 3)] + [setup.classifier_trainer(device)]
    before = [trainer.snapshot().fingerprint() for trainer in trainers]
    take_step(trainers[1], setup.batch_stream(data.train.labels), 0)
    after = [trainer.snapshot().fingerprint() for trainer in trainers]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True, True]


def test_blocks_share_no_parameter(small_setup):
    setup, _ = small_setup
    networks = [setup.plan.block_network(t) for t in (1, 2, 3)]
    storages = [p.untyped_storage().data_ptr() for network in networks for p in network.parameters()]
    assert len(storages) == len(set(storages))
    first, second = ([p.flatten()[0].item() for p in network.parameters() if p.ndim > 1] for network in networks[:2])
    assert first != second, "and each has initial weights of its own"


def test_accuracy_is_reported_three_ways(trained):
    """Classifier and nearest embedding on z_T, every block along the chain, every block alone."""
    network, test = trained
    whole, blocks = evaluate(network, test, "mean"), evaluate_blocks(network, test, "mean")
    assert whole.accuracy > 0.97
    assert whole.nearest_embedding_accuracy > 0.97
    assert [block.block for block in blocks] == [1, 2, 3, 4, 5]
    assert blocks[-1].after_block == whole.nearest_embedding_accuracy


def test_the_classifier_is_trained_at_a_rate_of_its_own(small_config):
    def moved(*settings):
        setup, data = prepare(small_config("training.optimizer=sgd", "training.weight_decay=0", *settings))
        trainer = setup.classifier_trainer(torch.device("cpu"))
        before = trainer.snapshot().weights["weight"]
        take_step(trainer, setup.batch_stream(data.train.labels), 0)
        return trainer.snapshot().weights["weight"] - before

    step = moved("classifier.learning_rate=0.02")
    assert np.abs(step).max() > 0
    assert np.array_equal(moved("classifier.learning_rate=0.02", "training.learning_rate=10"), step)
    np.testing.assert_allclose(moved("classifier.learning_rate=0.04"), 2 * step, rtol=1e-3)


def test_dropout_of_elements_is_the_default_and_of_channels_is_offered(small_config):
    def drops(*settings):
        facts = prepare(small_config())[0].plan.facts
        network = RunPlan(small_config("blocks.network={kind: paper}", *settings), facts).block_network(1)
        return {type(module).__name__ for module in network.modules() if "Drop" in type(module).__name__}

    assert drops() == {"Dropout"}
    assert drops("blocks.network.dropout_unit=channel") == {"Dropout2d"}


def test_the_reported_elbo_is_the_sum_of_the_reported_terms(trained):
    network, test = trained
    terms = evaluate_terms(network, test, eta=0.1)
    gains = [network.schedule.snr_gain(t) for t in range(1, 6)]
    denoising = sum(0.5 * gain * error for gain, error in zip(gains, terms.squared_errors, strict=True))
    assert terms.elbo == pytest.approx(-(terms.cross_entropy + terms.kl + denoising))
    assert terms.denoising == pytest.approx(0.1 * denoising)
