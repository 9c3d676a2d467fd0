"""Every kind of embedding and classifier learns real digits; `test_known_mistakes.py` has the default ones."""

import pytest

from noprop_dist.api import train
from noprop_dist.config.layers import load_config


@pytest.mark.slow
@pytest.mark.parametrize(("embedding", "classifier"), [("learned", "radial"), ("prototype", "linear")])
def test_digits_are_learned(tmp_path, embedding, classifier):
    settings = [f"embedding={{kind: {embedding}}}", f"classifier={{kind: {classifier}}}", "engine.kind=sequential",
                "blocks.count=5", "training.max_steps=160", "checkpoint.every_steps=160"]  # fmt: skip
    evaluation = train(load_config("digits", None, settings), str(tmp_path / "run")).evaluation
    test = {result.sampler: result.accuracy for split, result in evaluation.results if split == "test"}
    assert test["mean"] >= 0.98
    assert test["stochastic"] >= 0.97
