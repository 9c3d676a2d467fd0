"""With training.ema_decay the average of the weights is what a run results in; what is trained stays the same."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from noprop_dist import api
from noprop_dist.baseline.trainer import end_to_end_trainer
from noprop_dist.config.schema import TrainingSettings
from noprop_dist.records import RoundDone
from noprop_dist.stages import EMBEDDING, NETWORK, block
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import from_files, to_files
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.optimisation import Optimisation
from noprop_dist.training.replicas import ALONE
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare
from noprop_dist.training.weight_average import TRAINED

AVERAGED, DECAY = "training.ema_decay=0.6", 0.6
EVERY_STEP = ["checkpoint.every_steps=1", "checkpoint.num_to_keep=99", "evaluation.samples=0"]
LEARNED = "embedding={kind: learned, sync_steps: 3}"


def trained(snapshot):
    """What training goes on from."""
    kept = {name.removeprefix(TRAINED): array for name, array in snapshot.optimizer.items() if TRAINED in name}
    return snapshot.weights | kept


def same(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("embedding", ["embedding.kind=onehot", LEARNED])
def test_training_is_the_same_and_the_result_is_its_average(small_run, embedding):
    plain = small_run(*EVERY_STEP, embedding, name="plain")
    averaged = small_run(*EVERY_STEP, embedding, AVERAGED)
    last = plain.checkpoints.load_all()
    for stage, snapshot in averaged.checkpoints.load_all().items():
        assert same(trained(snapshot), last[stage].weights)
        assert same(snapshot.weights, last[stage].weights) == (stage == EMBEDDING), "no stage trains against an average"
    losses = [[r.loss for r in run.metrics() if isinstance(r, RoundDone)] for run in (plain, averaged)]
    assert losses[0] == losses[1]


def test_the_average_is_that_of_its_formula(small_run):
    plain, run = small_run(*EVERY_STEP, name="plain"), small_run(*EVERY_STEP, AVERAGED)
    first, *steps = run.checkpoints.steps()
    assert first == 1
    averages, last = (run.checkpoints.load_all(step)[block(2)] for step in (1, 12))
    names = [name.removeprefix(TRAINED) for name in last.optimizer if TRAINED in name]
    average = {name: averages.weights[name].astype(np.float64) for name in names}
    for step in steps:
        weights = plain.checkpoints.load_all(step)[block(2)].weights
        for name in names:
            average[name] += (1 - min(DECAY, step / (step + 9))) * (weights[name] - average[name])
    for name in names:
        np.testing.assert_allclose(last.weights[name], average[name], atol=1e-6)


def test_what_is_loaded_and_evaluated_is_the_average(small_run):
    run = small_run("checkpoint.every_steps=6", AVERAGED)
    network, kept = api.open_run(str(run), "cpu").network, run.checkpoints.load_all()[block(1)]
    assert same({name: tensor.numpy() for name, tensor in network.blocks[0].state_dict().items()}, kept.weights)
    assert not same(trained(kept), kept.weights)
    assert api.inspect(str(run)).manifest.stages[0].sha256 == kept.fingerprint()


@pytest.mark.parametrize("settings", [[], [LEARNED], ["blocks.networks.2={kind: small-conv}"]])
def test_a_run_that_goes_on_has_the_average_of_one_that_never_stopped(small_run, settings):
    several = ["checkpoint.every_steps=3", "checkpoint.num_to_keep=9", "evaluation.samples=0", AVERAGED, *settings]
    whole, part = small_run(*several, name="whole"), small_run(*several)
    for step in (6, 9, 12):
        shutil.rmtree(f"{part}/checkpoints/step-{step:08d}")
    api.resume(str(part))
    for stage, snapshot in part.checkpoints.load_all().items():
        wanted = whole.checkpoints.load_all()[stage]
        assert same(snapshot.weights, wanted.weights)
        assert same(snapshot.optimizer, wanted.optimizer)


def test_blocks_that_were_trained_apart_are_merged_with_their_averages(small_run, tmp_path):
    parts = [str(small_run(AVERAGED, f"blocks.only={only}", name=f"part{only}")) for only in ("1-2", "3")]
    whole = small_run(AVERAGED)
    api.merge(str(tmp_path / "merged"), parts)
    merged = RunDirectory(str(tmp_path / "merged"))
    prints = [{e.stage: e.sha256 for e in run.checkpoints.manifest().stages} for run in (whole, merged)]
    assert prints[0] == prints[1]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other, self.norm = nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.other.weight = self.one.weight
        self.count = nn.Parameter(torch.arange(3), requires_grad=False)

    def forward(self, x):
        return self.norm(self.other(self.one(x)))


def test_a_weight_with_two_names_is_averaged_under_both_and_a_buffer_is_not_averaged():
    torch.manual_seed(0)
    network = Tied()
    optimisation = Optimisation(block(1), network, TrainingSettings(ema_decay=DECAY), 0.1, 5)
    for _ in range(5):
        optimisation.step(network(torch.randn(8, 3)).square().mean())
    weights = optimisation.snapshot().weights
    assert np.array_equal(weights["one.weight"], weights["other.weight"])
    assert not np.array_equal(weights["one.weight"], network.one.weight.detach().numpy())
    assert np.array_equal(weights["norm.running_mean"], network.norm.running_mean.numpy())
    again = Optimisation(block(1), Tied(), TrainingSettings(ema_decay=DECAY), 0.1, 5)
    again.restore(optimisation.snapshot())
    assert same(again.snapshot().weights, weights)
    assert same(again.snapshot().optimizer, optimisation.snapshot().optimizer)


def test_the_baseline_keeps_one_of_its_whole_network_and_goes_on_from_what_it_trained(small_config):
    def end_to_end(*settings):
        setup, data = prepare(small_config("method=backprop", *settings))
        cpu, stream = torch.device("cpu"), setup.batch_stream(data.train.labels)
        trainer = end_to_end_trainer(
            setup, setup.training_samples(data.train.inputs, cpu), cpu, ALONE, lambda each: each
        )
        return trainer, lambda first, steps: train_round(trainer, stream.round(RoundKey(NETWORK, first, steps)))

    plain, train_plain = end_to_end()
    averaged, train_averaged = end_to_end(AVERAGED)
    again, train_again = end_to_end(AVERAGED)
    train_plain(0, 6)
    train_averaged(0, 4)
    again.restore(from_files("network", *to_files(averaged.snapshot(), 3).values()))
    for train in (train_averaged, train_again):
        train(4, 2)
    wanted, one, other = (each.snapshot() for each in (plain, averaged, again))
    assert same(trained(one), wanted.weights)
    assert not same(one.weights, wanted.weights)
    assert (one.fingerprint(), trained(one).keys()) == (other.fingerprint(), trained(other).keys())
    assert same(trained(one), trained(other))
