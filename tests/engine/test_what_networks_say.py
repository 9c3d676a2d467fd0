"""On a real Ray, whose workers write into files that nobody reads: what a network says reaches the run's log."""

import logging
import warnings

import pytest
from run_facts import records_of
from torch import nn

from noprop_dist.records import News

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_here")]


class Talking(nn.Module):
    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.layer = nn.Linear(embedding_dim, classes)
        self.forwards = 0

    def forward(self, x, z):
        self.forwards += 1
        if self.training and self.forwards == 1:
            print("printed")
            logging.getLogger("mine").warning("logged")
            warnings.warn("warned", stacklevel=1)
        if not self.training and self.forwards == 1:
            print("measured")
        if self.training:
            print("again and again")
        return self.layer(z)


def test_what_a_network_prints_logs_and_warns_reaches_the_log_with_its_block(small_config, run_here, tmp_path):
    talking = f"blocks.networks.2={{kind: custom, path: '{__name__}:Talking'}}"
    config = small_config(talking, "training.max_steps=60", "engine.workers=1", "evaluation.samples=16",
                          "engine.profile={block: 1, steps: 3}")  # fmt: skip
    assert run_here(config, str(tmp_path / "run")).step == 60
    said = [record.text for record in records_of(tmp_path / "run", News)]
    of_block = [text.removeprefix("block 2: ") for text in said if text.startswith("block 2: ")]
    assert {"printed", "logged"} < set(of_block)
    assert [text for text in of_block if "UserWarning: warned" in text]
    assert "evaluator: measured" in said
    assert 15 <= of_block.count("again and again") < 30
    assert [text for text in of_block if text.startswith("says more than is kept")]
    assert "block 1: the profile of steps 6 to 8 is in profile/block-01.json.gz" in said
    assert (tmp_path / "run/profile/block-01.json.gz").stat().st_size > 0
    assert not [text for text in said if text.startswith(("block 3", "classifier"))], "others say nothing"
