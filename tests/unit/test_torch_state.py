"""What a caller has set of torch changes nothing that is computed here, and is as it was afterwards."""

import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from run_facts import fingerprints

import noprop_dist
from noprop_dist import RunConfig, TrainingError

X = np.random.default_rng(0).integers(0, 256, (80, 1, 4, 4), dtype=np.uint8)
Y = np.arange(80) % 4
CONFIG = RunConfig(
    blocks={"count": 2, "network": {"kind": "mlp", "width": 8}},
    embedding={"kind": "learned"},
    training={"max_steps": 6, "batch_size": 8},
    engine={"kind": "sequential", "threads_per_worker": 2},
)


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


AMBIENT = {
    "float64 by default": lambda: default_dtype(torch.float64),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "another device by default": lambda: torch.device("meta"),
    "deterministic algorithms": deterministic,
}


def state():
    return {
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "device": torch.get_default_device(),
    }


def train(run_dir):
    return noprop_dist.train(CONFIG, run_dir, data=(X, Y))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain") / "run")


def answers(run):
    return noprop_dist.evaluate(run, data=(X, Y)), noprop_dist.load(run).predict_proba(X).tolist()


@pytest.mark.parametrize("ambient", AMBIENT)
def test_a_run_is_the_same_whatever_the_caller_has_set(plain, tmp_path, ambient):
    with AMBIENT[ambient]():
        before = state()
        result = train(tmp_path / "run")
        given = answers(result)
        assert state() == before
    assert fingerprints(result.path) == fingerprints(plain.path)
    assert given == answers(plain)


def test_a_loaded_network_answers_alike_whatever_is_set_afterwards(plain):
    network = noprop_dist.load(plain)
    expected, chain = network.predict_proba(X), network.chain(X)
    for ambient in AMBIENT.values():
        with ambient():
            assert network.predict_proba(X).tolist() == expected.tolist()
            assert torch.equal(network.chain(X), chain)
            assert torch.equal(network.predict(X), expected.argmax(dim=1))


def test_a_network_that_was_loaded_in_inference_mode_can_be_tuned(plain):
    with torch.inference_mode():
        network = noprop_dist.load(plain)
    network(torch.from_numpy(X)).sum().backward()
    assert next(network.parameters()).grad is not None


@pytest.mark.parametrize("threads", [1, 2])
def test_random_numbers_and_threads_of_the_caller_go_on_as_if_nothing_had_been_trained(tmp_path, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    before = state()
    result = train(tmp_path / "run")
    noprop_dist.resume(result, ["training.max_steps=9"], data=(X, Y))
    answers(result)
    noprop_dist.report(result, data=(X, Y))
    assert state() == before


def test_the_callers_state_is_back_after_a_run_that_failed(tmp_path):
    training = {"max_steps": 6, "batch_size": 8, "learning_rate": 1e30}
    config = RunConfig(**{**CONFIG.model_dump(exclude_unset=True), "training": training})
    before = state()
    with pytest.raises(TrainingError):
        noprop_dist.train(config, tmp_path / "run", data=(X, Y))
    assert state() == before
