"""The programs in examples/ do what they say."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from noprop_dist.config.layers import load_config
from noprop_dist.engines.sequential import train_sequentially
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.snapshot import to_arrays, weights_sha256
from noprop_dist.training.setup import prepare

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 12  # an epoch has ten


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_an_example_explains_itself():
    told = subprocess.run(
        [sys.executable, EXAMPLES / "algorithm1.py", "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "Algorithm 1 of the paper" in told
    assert "[STEPS]" in told


@pytest.mark.slow
def test_a_transformer_learns_digits_end_to_end():
    end_to_end = example("end_to_end")
    network = end_to_end.train(layers=2, dropout=0.1, seed=0, steps=40, rate=2e-3)
    assert end_to_end.accuracy(network, end_to_end.data.held_out.test) > 0.8


@pytest.mark.slow
def test_algorithm_1_in_one_file_has_the_bits_of_the_engine(tmp_path):
    settings = ["engine.kind=sequential", f"training.max_steps={STEPS}", f"checkpoint.every_steps={STEPS}"]
    setup, data = prepare(load_config("digits", None, settings))
    directory = RunDirectory(str(tmp_path))
    directory.create(setup.config, setup.plan.facts)
    evaluation = train_sequentially(setup, data, directory, lambda _: None)
    manifest = json.loads((tmp_path / f"checkpoints/step-{STEPS:08}/manifest.json").read_text())

    algorithm1 = example("algorithm1")
    blocks, classifier = algorithm1.train(STEPS)
    weights = [weights_sha256(to_arrays(module.state_dict())) for module in (*blocks, classifier)]
    assert weights == [entry["sha256"] for entry in manifest["stages"]]
    assert len(set(weights)) == 11

    test = data.held_out.test
    for split, result in evaluation.results:
        if split == "test":
            classes = algorithm1.classify(blocks, classifier, test.inputs, result.sampler == "stochastic")
            assert (classes == test.labels).mean() == result.accuracy
