"""An image path is computed once for all that is asked of a batch, and no bit of any answer changes."""

import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from noprop_dist.baseline.network import end_to_end_network
from noprop_dist.data.dataset import Split
from noprop_dist.data.samples import Samples
from noprop_dist.inference import evaluation
from noprop_dist.inference.evaluation import Passes, evaluate, evaluate_blocks, evaluate_terms, measure
from noprop_dist.inference.network import NoPropNetwork
from noprop_dist.models import features
from noprop_dist.models.mlp import MlpNetwork
from noprop_dist.models.shapes import Shapes
from noprop_dist.training.setup import prepare

NETWORKS = ["paper", "small-conv", "mlp", "vit", "torchvision"]
PASSES = [Passes("mean"), Passes("stochastic", 2), Passes("stochastic", 1, first=7)]


@pytest.fixture
def untrained(small_config, monkeypatch):
    """A network of some kind whose weights are random, and 70 samples in batches of 30."""
    monkeypatch.setattr(evaluation, "BATCH", 30)

    def network(kind: str = "mlp") -> tuple[NoPropNetwork, Split]:
        setup, data = prepare(small_config(f"blocks.network={{kind: {kind}}}"))
        plan, test = setup.plan, data.held_out.test
        blocks = tuple(plan.block_network(t).eval() for t in (1, 2, 3))
        whole = NoPropNetwork(blocks, plan.classifier(), torch.eye(10), plan.schedule, plan.facts, seed=0)
        return whole, Split(test.inputs[:70], test.labels[:70])

    return network


@pytest.fixture
def nothing_shared(monkeypatch):
    """As if no network told its image path from the rest."""

    def forget() -> None:
        monkeypatch.setattr("noprop_dist.inference.network.sharing_features", tuple)

    return forget


@pytest.mark.parametrize("kind", NETWORKS)
def test_logits_of_shared_features_are_those_of_the_whole_network(untrained, kind):
    (network, _), z = untrained(kind), torch.randn(5, 10)
    x = torch.rand(5, *network.facts.input_shape)
    with torch.inference_mode():
        for block in network.blocks:
            kept = features.image_features(block, x)
            assert kept is not x
            assert torch.equal(features.logits(block, kept, z), block(x, z))
            assert torch.equal(features.logits(block, kept, -z), block(x, -z))


@pytest.mark.parametrize("kind", [*NETWORKS[:4], pytest.param("torchvision", marks=pytest.mark.slow)])
def test_figures_are_those_of_a_pass_for_each(untrained, nothing_shared, kind):
    network, test = untrained(kind)
    together = measure(network, test, PASSES, eta=0.1, blocks="stochastic")
    nothing_shared()
    alone = tuple(evaluate(network, test, each.sampler, each.count, each.first) for each in PASSES)
    assert together.accuracies == alone
    assert together.terms == evaluate_terms(network, test, eta=0.1)
    assert together.per_block == evaluate_blocks(network, test, "stochastic")


def test_a_decision_over_many_passes_is_the_mean_over_single_chains(untrained):
    network, test = untrained("small-conv")
    x = _normalised(network, test)
    with torch.inference_mode():
        decision = network.decide(x, "stochastic", passes=20, batch=3, first_pass=1)
        mean = torch.zeros(())
        for pass_ in range(1, 21):
            *_, last = network.chain(x, "stochastic", pass_, 3)
            mean = mean + torch.softmax(network.classifier(last.z, network.embedding), dim=-1) / 20
    assert torch.equal(decision.probabilities, mean)


def test_the_baseline_shares_image_features_too(small_config, untrained):
    network, test = untrained("small-conv")
    plan = prepare(small_config("method=backprop", "blocks.network={kind: small-conv}"))[0].plan
    baseline = end_to_end_network(plan, torch.eye(10)).eval().for_inference(network.schedule, network.facts, seed=0)
    x, calls = _normalised(network, test), Counter()
    _count_image_paths(baseline, calls)
    with torch.inference_mode():
        decision = baseline.decide(x, "mean", passes=3)
        lasts = [list(baseline.chain(x, "mean", pass_))[-1].z for pass_ in range(3)]
        each = [torch.softmax(baseline.classifier(z, baseline.embedding), dim=-1) for z in lasts]
    assert torch.allclose(decision.probabilities, torch.stack(each).mean(dim=0))
    assert set(calls.values()) == {1 + 3}


def test_every_image_path_is_computed_once_for_each_batch(untrained):
    network, test = untrained()
    calls: Counter[int] = Counter()
    _count_image_paths(network, calls)
    measure(network, test, PASSES, eta=0.1, blocks="mean")
    assert list(calls.values()) == [3, 3, 3], "70 samples are three batches"


def test_features_of_one_block_are_in_memory_at_a_time(untrained, monkeypatch):
    network, test = untrained()
    made: list[weakref.ref[Tensor]] = []

    def noted(block: MlpNetwork, x: Tensor) -> Tensor:
        made.append(weakref.ref(result := MlpNetwork.image_features(block, x)))
        return result

    monkeypatch.setattr(features, "image_features", noted)
    alive = []
    for _ in network.sharing_image_features().deciding(_normalised(network, test), "mean", passes=2):
        alive.append(sum(each() is not None for each in made))
    assert alive == [1, 1, 1]


class OtherForward(MlpNetwork):
    """A user's network that begins as one of ours and goes another way."""

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return super().forward(x, z) * 2 + x.flatten(1)[:, :10]


def test_a_network_with_a_forward_of_its_own_is_called_as_a_whole():
    network = OtherForward(Shapes((1, 8, 8), 10, 10)).eval()
    x, z = torch.rand(4, 1, 8, 8), torch.randn(4, 10)
    assert features.image_features(network, x) is x
    with torch.inference_mode():
        assert torch.equal(features.logits(network, x, z), network(x, z))
        (shared,) = features.sharing_features([network])
        assert torch.equal(shared(x, z), network(x, z))


def _normalised(network: NoPropNetwork, test: Split) -> Tensor:
    return Samples(test.inputs, network.facts, torch.device("cpu")).batch(np.arange(len(test)))


def _count_image_paths(network: NoPropNetwork, calls: Counter[int]) -> None:
    for t, block in enumerate(network.blocks):
        path = getattr(block, "image_path", None) or block.input_path
        path.register_forward_hook(lambda *_, t=t: calls.update([t]))
