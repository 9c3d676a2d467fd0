"""Every kind of embedding and classifier learns real digits, with the sequential engine."""

import pytest

from noprop_dist.config.layers import load_config
from noprop_dist.engines.sequential import train_sequentially
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.setup import prepare


@pytest.mark.slow
@pytest.mark.parametrize("classifier", ["linear", "radial"])
@pytest.mark.parametrize("embedding", ["onehot", "learned, dim: 20", "prototype"])
def test_digits_are_learned(tmp_path, embedding, classifier):
    settings = [f"embedding={{kind: {embedding}}}", f"classifier={{kind: {classifier}}}", "engine.kind=sequential",
                "training.max_steps=192", "checkpoint.every_steps=192"]  # fmt: skip
    setup, data = prepare(load_config("digits", None, settings))
    directory = RunDirectory(str(tmp_path / "run"))
    directory.create(setup.config, setup.plan.facts)
    evaluation = train_sequentially(setup, data, directory, lambda _: None)
    test = {result.sampler: result.accuracy for split, result in evaluation.results if split == "test"}
    assert test["mean"] >= 0.98
    assert test["stochastic"] >= 0.97
