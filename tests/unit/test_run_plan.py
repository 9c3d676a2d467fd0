"""What follows from a configuration by counting."""

from dataclasses import replace

from noprop_dist.api import plan
from noprop_dist.training.footprint import Footprint


def test_one_hears_of_blocks_on_gpus_less_often_unless_it_is_asked_for(small_config, small_setup):
    plan_ = small_setup[0].plan
    auto = ["engine.round_steps=auto", "checkpoint.snapshot_every_steps=auto"]
    long = replace(plan_, config=small_config("training.max_steps=5000", "checkpoint.every_steps=5000", *auto))
    assert (long.round_steps, long.snapshot_steps[:2]) == (16, (64, 128))
    on_gpu = replace(long, on_gpu=True)
    assert (on_gpu.round_steps, on_gpu.snapshot_steps) == (256, (2048, 4096, 5000))
    asked = ["checkpoint.every_steps=5000", "engine.round_steps=8", "checkpoint.snapshot_every_steps=1000"]
    chosen = replace(on_gpu, config=small_config("training.max_steps=5000", *asked))
    assert (chosen.round_steps, chosen.snapshot_steps) == (8, (1000, 2000, 3000, 4000, 5000))


def test_a_plan_of_thousands_of_equal_blocks_measures_each_network_once(small_config, monkeypatch):
    measured = []

    def measure(plan, block, *, as_trained):
        measured.append(block)
        return Footprint(parameters=block, state=0, activations=0)

    monkeypatch.setattr("noprop_dist.training.footprint.block_footprint", measure)
    others = "blocks.networks={7: {kind: mlp, width: 8}, 9: {kind: mlp, width: 8}}"
    planned = plan(small_config("blocks.count=1000", others, "engine.kind=sequential"))
    assert measured == [1, 7]
    assert [planned.footprints[t].parameters for t in (1, 2, 7, 8, 9, 1000)] == [1, 1, 7, 1, 7, 1]
