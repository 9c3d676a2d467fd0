"""The sequential engine: checkpoints, resuming, and runs of single blocks."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image

from noprop_dist import api
from noprop_dist.api import train
from noprop_dist.data.load import load_data
from noprop_dist.engines.sequential import train_sequentially
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.inference.load import assemble_network
from noprop_dist.records import Evaluated, News, RoundDone, StageFailed
from noprop_dist.run_plan import RunPlan
from noprop_dist.stages import block
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.torch_device import choose_device
from noprop_dist.training.setup import prepare


def fingerprints(directory, step=None):
    return [entry.sha256 for entry in directory.checkpoints.manifest(step).stages]


def rounds_of(directory, stage):
    return [record for record in directory.metrics() if isinstance(record, RoundDone) and record.stage == stage]


def test_a_run_leaves_checkpoints_metrics_and_figures(small_run):
    directory = small_run("checkpoint.every_steps=5")
    assert directory.checkpoints.steps() == [10, 12], "the last two are kept"
    assert sum(record.steps for record in rounds_of(directory, block(2))) == 12
    final = [record for record in directory.metrics() if isinstance(record, Evaluated) and record.final]
    assert {(record.split, record.sampler) for record in final} == {
        ("validation", "mean"), ("test", "mean"), ("test", "stochastic"),
    }  # fmt: skip
    assert final[1].samples == 359


def test_round_size_and_checkpoints_do_not_change_a_bit(small_run):
    plain = fingerprints(small_run(name="a"))
    assert fingerprints(small_run("engine.round_steps=5", name="b")) == plain
    assert fingerprints(small_run("checkpoint.every_steps=1", name="c")) == plain
    assert fingerprints(small_run("seed=1", name="d")) != plain


def test_a_resumed_run_ends_with_the_same_bits(small_run, tmp_path):
    whole = small_run("checkpoint.every_steps=5", name="whole")
    setup, data = prepare(whole.config())
    stopped = RunDirectory(str(tmp_path / "stopped"))
    stopped.create(setup.config, setup.plan.facts)

    class Stop(Exception):
        pass

    def stop(progress):
        if progress.stages[1].step > 5:
            raise Stop

    with pytest.raises(Stop):
        train_sequentially(setup, data, stopped, stop)
    assert stopped.checkpoints.steps() == [5]
    train_sequentially(setup, data, stopped, lambda _: None)
    assert fingerprints(stopped) == fingerprints(whole)
    assert sum(record.steps for record in rounds_of(stopped, block(1))) == 12, "nothing is counted twice"


@pytest.mark.parametrize("embedding", ["{kind: onehot}", "{kind: learned, sync_steps: 4}"])
def test_a_run_that_was_asked_to_stop_goes_on_with_the_same_bits(small_run, tmp_path, embedding):
    whole = small_run("checkpoint.every_steps=4", "engine.round_steps=2", f"embedding={embedding}", name="whole")
    setup, data = prepare(whole.config())
    directory = RunDirectory(str(tmp_path / "stopped"))
    directory.create(setup.config, setup.plan.facts)
    steps = []
    first = train_sequentially(
        setup, data, directory, lambda progress: steps.append(progress.stages[1].step), lambda: 6 in steps
    )
    assert first is None
    assert max(steps) == 6
    last = train_sequentially(setup, data, directory, lambda _: None)
    assert last.final
    assert fingerprints(directory) == fingerprints(whole)
    for stage in setup.plan.stages[:4]:
        assert sum(record.steps for record in rounds_of(directory, stage)) == 12, "nothing is counted twice"


def test_a_damaged_snapshot_is_told_in_the_news_and_the_one_before_it_is_used(small_run):
    directory = small_run("checkpoint.every_steps=6")
    file = Path(str(directory)) / "checkpoints/step-00000012/block-02.safetensors"
    file.write_bytes(file.read_bytes() + b"x")
    setup, data = prepare(directory.config())
    seen = []
    train_sequentially(setup, data, directory, seen.append)
    warning = seen[0].news[0]
    assert "block-02.safetensors of step 12 is damaged" in warning
    assert [record.text for record in directory.metrics() if isinstance(record, News)] == [warning]


def test_blocks_trained_alone_are_those_of_the_whole_network(small_run):
    whole, alone = small_run(name="whole"), small_run("blocks.only=[2]", name="alone")
    assert fingerprints(alone) == [fingerprints(whole)[1], fingerprints(whole)[3]]
    with pytest.raises(UserError, match=r"no weights of block\(s\) 1, 3"):
        assemble_network(RunPlan(alone.config(), alone.facts()), alone.checkpoints.load_all(), choose_device("cpu"))


def test_different_blocks_may_have_different_networks(small_run):
    directory = small_run("blocks.networks.2={kind: small-conv, width: 8}")
    names = [set(snapshot.weights) for snapshot in directory.checkpoints.load_all().values()]
    assert names[0] == names[2] != names[1]


def test_more_samples_in_a_batch_than_in_the_data_are_refused(small_config):
    with pytest.raises(UserError, match="training.batch_size=2000 is larger than the training set of 1295 samples"):
        prepare(small_config("training.batch_size=2000"))


def test_a_gpu_where_there_is_none_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="engine.device=cuda: this process sees no GPU"):
        choose_device("cuda", "engine.device")
    assert choose_device("auto").type == "cpu"


def test_augmented_training_is_repeatable(small_run):
    settings = ("data.augment={crop_padding: 1, flip: true}", "training.max_steps=3")
    one, two = small_run(*settings, name="a"), small_run(*settings, name="b")
    assert fingerprints(one) == fingerprints(two) != fingerprints(small_run("training.max_steps=3", name="c"))


def test_the_data_of_a_run_can_be_told_apart(small_run):
    directory = small_run()
    assert directory.facts() == load_data(directory.config().data).facts


class Failing(torch.nn.Module):
    """A user's network that fails in its own way, in training or outside of it."""

    error: ClassVar[type[BaseException]] = ValueError
    in_training = True

    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.linear = torch.nn.Linear(embedding_dim, classes)

    def forward(self, x, z):
        if self.training == self.in_training:
            raise self.error("a user's\nmistake")
        return self.linear(z)


@pytest.mark.parametrize("error", [ValueError, OSError, SystemExit])
def test_a_network_that_fails_is_told_in_one_line_and_its_traceback_is_kept(small_config, tmp_path, monkeypatch, error):
    monkeypatch.setattr(Failing, "error", error)
    config = small_config("engine.kind=sequential", f"blocks.network={{kind: custom, path: '{__name__}:Failing'}}")
    with pytest.raises(
        TrainingError, match=f"^block 1 was stopped: {error.__name__}: a user's mistake, after 0 steps$"
    ):
        train(config, str(tmp_path / "run"))
    (failed,) = [each for each in RunDirectory(str(tmp_path / "run")).metrics() if isinstance(each, StageFailed)]
    assert "in forward" in failed.trace


def test_a_network_that_fails_only_outside_of_training_is_told_in_one_line(small_config, tmp_path, monkeypatch):
    network = f"blocks.network={{kind: custom, path: '{__name__}:Failing'}}"
    with monkeypatch.context() as never:
        never.setattr(Failing, "in_training", None)
        train(small_config("engine.kind=sequential", network, "evaluation.samples=0"), str(tmp_path / "run"))
    monkeypatch.setattr(Failing, "in_training", False)
    picture = tmp_path / "digit.png"
    Image.new("L", (8, 8)).save(picture)
    run = api.open_run(str(tmp_path / "run"))
    for use in (
        lambda: api.evaluate(run),
        lambda: api.predict(run, [picture]),
        lambda: api.report(str(tmp_path / "run")),
    ):
        with pytest.raises(UserError, match=f"its network {__name__}:Failing fails: ValueError: a user's"):
            use()
