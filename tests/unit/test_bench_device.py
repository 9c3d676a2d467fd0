"""`bench device`: every way of running the blocks trains them, and what it counts is what was done."""

import json

import numpy as np
import pytest
import torch

from noprop_dist.bench.device import flop_of_a_step
from noprop_dist.bench.ways import OwnTrainers, PlainLoop, Stacked
from noprop_dist.cli.app import main
from noprop_dist.stages import block
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.setup import prepare

CPU = torch.device("cpu")


def rounds_of(setup, data, steps, first=0):
    stream = setup.batch_stream(data.train.labels)
    return {t: [stream.round(RoundKey(block(t), first, steps))] for t in setup.config.blocks.trained()}


def test_stacked_blocks_take_the_steps_of_single_ones(small_config):
    """Weights of the last layer after one step; then the error alone, for Adam enlarges the rounding of gradients."""
    setup, data = prepare(small_config())
    stacked, single = Stacked(setup, data, CPU), OwnTrainers(setup, data, CPU)
    first = rounds_of(setup, data, 1)
    assert stacked.run(first) == pytest.approx(single.run(first), rel=1e-5)
    for t, trainer in single.trainers.items():
        own = torch.from_numpy(trainer.snapshot().weights["head.1.weight"])
        moved = own - setup.plan.block_network(t).state_dict()["head.1.weight"]
        theirs = stacked.parameters["head.1.weight"][t - 1] - (own - moved)
        torch.testing.assert_close(theirs, moved, rtol=1e-2, atol=1e-5)
    more = rounds_of(setup, data, 12, first=1)
    assert stacked.run(more) == pytest.approx(single.run(more), rel=1e-2)


def test_every_way_learns_as_much_from_the_same_steps(small_config):
    setup, data = prepare(small_config())
    rounds = rounds_of(setup, data, 100)
    errors = [way.run(rounds) for way in (PlainLoop(setup, data, CPU), OwnTrainers(setup, data, CPU, lanes=2))]
    before = OwnTrainers(setup, data, CPU).run(rounds_of(setup, data, 1))
    assert max(errors) < 0.8 * before
    assert errors[0] == pytest.approx(errors[1], rel=0.02), "the plain loop draws noise of its own"


def test_operations_are_counted_as_by_hand(small_config):
    """A product of (B, i) and (i, o) is 2 B i o; its gradients are as much for the weights and for the input each."""
    setup, _ = prepare(small_config("training.batch_size=16"))
    layers = {(64, 16): 2, (10, 16): 2, (32, 16): 3, (16, 10): 3}  # the first two need no gradient of their input
    assert flop_of_a_step(setup) == sum(2 * 16 * i * o * times for (i, o), times in layers.items())


def bench(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["bench", "device", "--device", "cpu", "--repeats", "1", "--steps", "16", *arguments, "--json"])
    assert end.value.code == 0
    return json.loads(capsys.readouterr().out)["rows"]


@pytest.mark.slow
def test_the_table_has_a_row_for_every_way(capsys):
    rows = bench(capsys, "--set", "blocks.count=2", "--set", "blocks.network={kind: mlp, width: 16}")
    assert {(row["way"], row["precision"]) for row in rows} == {
        (way, precision)
        for way in ("call by call", "call by call, channels first", "stacked")
        for precision in ("float32", "bfloat16")
    } | {("plain loop", "float32")}
    assert rows[0]["times_plain"] == 1
    for row in rows:
        assert 0 < row["percent_of_peak"] < 100
        assert row["least"] <= row["block_steps_per_second"] <= row["most"]
        assert np.isfinite(row["error"])


@pytest.mark.slow
def test_made_up_images_take_the_place_of_data_that_is_not_here(capsys):
    rows = bench(capsys, "--preset", "cifar10", "--made-up", "--set", "blocks.count=1",
                 "--set", "blocks.network={kind: mlp, width: 8}", "--set", "training.batch_size=16")  # fmt: skip
    assert all(row["gigaflop_per_second"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--device", "tpu"], "--device tpu: allowed are auto, cpu and cuda"),
     (["--made-up", "--set", "data={name: npz, root: x}"], "--made-up: the size of data.name=npz is not known")],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_in_one_sentence(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(["bench", "device", *arguments])
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
