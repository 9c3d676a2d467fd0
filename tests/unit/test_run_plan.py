"""What follows from a configuration by counting."""

from dataclasses import replace


def test_one_hears_of_blocks_on_gpus_less_often_unless_it_is_asked_for(small_config, small_setup):
    plan = small_setup[0].plan
    auto = ["engine.round_steps=auto", "checkpoint.snapshot_every_steps=auto"]
    long = replace(plan, config=small_config("training.max_steps=5000", "checkpoint.every_steps=5000", *auto))
    assert (long.round_steps, long.snapshot_steps[:2]) == (16, (64, 128))
    on_gpu = replace(long, on_gpu=True)
    assert (on_gpu.round_steps, on_gpu.snapshot_steps) == (256, (2048, 4096, 5000))
    asked = ["checkpoint.every_steps=5000", "engine.round_steps=8", "checkpoint.snapshot_every_steps=1000"]
    chosen = replace(on_gpu, config=small_config("training.max_steps=5000", *asked))
    assert (chosen.round_steps, chosen.snapshot_steps) == (8, (1000, 2000, 3000, 4000, 5000))
