"""Batches are computed side by side, one in each thread of the CPU, and no figure shows it."""

import signal
import threading
import time

import numpy as np
import pytest
import torch
from untrained import NETWORKS, untrained_network

from noprop_dist.data.dataset import Split
from noprop_dist.data.samples import Samples
from noprop_dist.data.unlabelled import StoredSamples
from noprop_dist.inference import evaluation, predictions
from noprop_dist.inference.evaluation import Passes, measure
from noprop_dist.inference.predictions import answers
from noprop_dist.inference.side_by_side import side_by_side
from noprop_dist.models import features

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (100, 1, 8, 8), dtype=np.uint8)
SPLIT = Split(IMAGES, RANDOM.integers(0, 5, 100))
PASSES = [Passes("mean"), Passes("stochastic", 2)]


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(evaluation, "BATCH", 30)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["small-conv", "paper", "mlp", "vit", "learned", "radial", "baseline"])
def test_figures_do_not_depend_on_how_many_batches_are_measured_at_once(kind, monkeypatch):
    network, _ = untrained_network(*NETWORKS[kind])
    assert network.batches_at_once == 3
    read = Samples.batch

    def the_first_one_takes_longest(samples, indices):
        time.sleep(0.3 if indices[0] == 0 else 0)
        return read(samples, indices)

    monkeypatch.setattr(Samples, "batch", the_first_one_takes_longest)
    at_once = measure(network, SPLIT, PASSES, eta=0.1, blocks="stochastic")
    torch.set_num_threads(1)
    assert network.batches_at_once == 1
    assert measure(network, SPLIT, PASSES, eta=0.1, blocks="stochastic") == at_once


def test_answers_come_in_the_order_of_the_samples(tmp_path, monkeypatch):
    network, _ = untrained_network(*NETWORKS["mlp"])
    source = StoredSamples(IMAGES, tmp_path / "x.npz")
    at_once = [(each.rows, each.probabilities) for each in answers(network, source, "mean", 1, batch=7)]
    torch.set_num_threads(1)
    one_by_one = [(each.rows, each.probabilities) for each in answers(network, source, "mean", 1, batch=7)]
    assert [rows for rows, _ in at_once] == [rows for rows, _ in one_by_one]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(at_once, one_by_one, strict=True))


def test_a_sample_by_itself_is_computed_on_one_thread_of_torch(tmp_path, monkeypatch):
    network, _ = untrained_network(*NETWORKS["mlp"])
    threads, probabilities = [], predictions._probabilities

    def noting(*given):
        threads.append(torch.get_num_threads())
        return probabilities(*given)

    monkeypatch.setattr(predictions, "_probabilities", noting)
    for rows, batch in ((1, 1), (2, 1), (2, 2)):
        list(answers(network, StoredSamples(IMAGES[:rows], tmp_path / "x.npz"), "mean", 1, batch=batch))
    assert threads == [1, 1, 1, 3]


def test_a_network_that_may_keep_something_is_called_by_one_thread():
    """A module may put what it computes into an attribute, to use it later in the same call."""
    network, _ = untrained_network(*NETWORKS["own"])
    ours, _ = untrained_network(*NETWORKS["mlp"])
    ours.blocks[1].register_forward_hook(lambda *_: callers.add(threading.get_ident()))
    network.blocks[0].image.register_forward_hook(lambda *_: callers.add(threading.get_ident()))
    for each in (network, ours):
        callers: set[int] = set()
        measure(each, SPLIT, PASSES)
        assert callers <= {threading.get_ident()}
        assert each.batches_at_once == 1


def test_calls_are_made_at_the_same_time_and_items_are_taken_when_they_are_needed():
    together, taken = threading.Barrier(2), []

    def items():
        for item in range(8):
            taken.append(item)
            yield item

    def doubled(item):
        together.wait(timeout=10)
        return 2 * item

    results = side_by_side(doubled, items(), 2)
    assert next(results) == 0
    assert taken == [0, 1, 2]
    assert list(results) == [2, 4, 6, 8, 10, 12, 14]


def test_threads_of_torch_are_shared_out_and_given_back():
    torch.set_num_threads(7)
    shares = list(side_by_side(lambda _: torch.get_num_threads(), range(4), 3))
    in_a_new_thread = []
    thread = threading.Thread(target=lambda: in_a_new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (shares, torch.get_num_threads(), in_a_new_thread) == ([2, 2, 2, 2], 7, [7])


def test_a_failure_is_raised_once_and_ends_the_rest():
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda item: 1 // item, range(5), 2))


def test_an_interrupt_waits_for_the_blocks_that_are_computed_and_no_further_ones(monkeypatch):
    network, _ = untrained_network(*NETWORKS["mlp"])
    computed, logits = [], features.logits

    def interrupted(*given):
        computed.append(given)
        if len(computed) == 1:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.2)
        return logits(*given)

    monkeypatch.setattr(features, "logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(network, SPLIT, [Passes("mean")])
    assert len(computed) <= 6, "three batches of three blocks were begun"


@pytest.mark.parametrize("kind", ["small-conv", "paper", "mlp", "vit"])
def test_image_paths_in_pieces_are_those_of_the_whole_and_the_same_at_every_call(kind, monkeypatch):
    """Their last bits may be others: where a product has fewer rows, oneDNN may choose another kernel."""
    network, _ = untrained_network(*NETWORKS[kind], shape=(1, 12, 12))
    x, z = torch.randn(219, 1, 12, 12), torch.randn(219, 5)
    sizes = []
    monkeypatch.setattr(features, "image_features", _noted(features.image_features, sizes))
    with torch.inference_mode():
        shared = network.sharing_image_features().blocks
        for own, sharing in zip(network.blocks, shared, strict=True):
            torch.testing.assert_close(sharing(x, z), own(x, z), rtol=1e-5, atol=1e-5)
        again = network.sharing_image_features().blocks
        assert all(torch.equal(one(x, z), other(x, z)) for one, other in zip(shared, again, strict=True))
    assert sizes[:12] == [55, 55, 55, 54] * 3


def _noted(image_features, sizes):
    def noting(block, x):
        sizes.append(len(x))
        return image_features(block, x)

    return noting


def test_the_image_path_of_a_network_that_is_watched_sees_whole_batches():
    network, _ = untrained_network(*NETWORKS["small-conv"])
    sizes = []
    network.blocks[0].image_path.register_forward_hook(lambda _module, _given, made: sizes.append(len(made)))
    with torch.inference_mode():
        network.decide(torch.randn(219, 1, 8, 8), "mean", passes=2)
    assert sizes == [219]
