"""training.init_from: a run begins with the weights of another one, and needs that one no more once it has begun."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from noprop_dist import api
from noprop_dist.errors import UserError
from noprop_dist.records import News
from noprop_dist.stages import EMBEDDING, block
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.trust import remember
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.fine_tuning import begin
from noprop_dist.training.rounds import train_round
from noprop_dist.training.setup import prepare

LEARNED = "embedding={kind: learned, sync_steps: 4}"
TUNED = ["seed=5", "training.max_steps=8", "training.batch_size=16", "evaluation.samples=16",
         "checkpoint.every_steps=4", "checkpoint.num_to_keep=9"]  # fmt: skip


@pytest.fixture
def tuned(small_run):
    """A run that began with the weights of a run named "source"."""

    def run(*settings, name="tuned", source=()):
        folder = small_run(*source, name="source").root
        return small_run(f"training.init_from={folder}", *TUNED, *settings, name=name)

    return run


def prints(directory):
    return {entry.stage: entry.sha256 for entry in directory.checkpoints.manifest().stages}


def test_a_stage_is_trained_from_the_weights_of_the_other_run(tuned, small_config):
    run = tuned()
    source = RunDirectory(run.config().training.init_from)
    setup, data = prepare(small_config(*TUNED))
    cpu = torch.device("cpu")
    trainer = setup.block_trainer(2, setup.training_samples(data.train.inputs, cpu), cpu)
    weights = source.checkpoints.load_all()[block(2)].weights
    trainer._network.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    train_round(trainer, setup.batch_stream(data.train.labels).round(RoundKey(block(2), 0, 8)))
    assert prints(run)[block(2)] == trainer.snapshot().fingerprint()
    start = run.start()
    assert (start.run, start.step) == (source.link, 12)
    assert set(start.sha256.values()) == set(prints(source).values())
    assert f"begins with the weights of {source} at step 12" in [r.text for r in run.metrics() if isinstance(r, News)]


@pytest.fixture
def begun(small_run, small_config, tmp_path):
    """A run whose process ended right after it had begun with the weights of a run named "source"."""

    def run(*settings, source=(), name="begun"):
        if not (tmp_path / "source").exists():
            small_run(*source, name="source")
        init = [f"training.init_from={tmp_path / 'source'}", "engine.kind=sequential", *TUNED, *settings]
        directory = RunDirectory(str(tmp_path / name))
        config = small_config(*init)
        remember(config)  # as `train` does
        begin(prepare(config)[0].plan, directory)
        return directory

    return run


@pytest.mark.parametrize("settings", [[], [LEARNED], ["training.ema_decay=0.5"]])
def test_a_run_that_has_begun_needs_the_source_no_more(tuned, begun, settings):
    whole, part = tuned(*settings, source=settings), begun(*settings, source=settings, name="part")
    assert {steps[0] for steps in part.checkpoints.saved_steps().values()} == {0}
    assert part.checkpoints.steps() == [], "it is not trained yet"
    shutil.rmtree(part.config().training.init_from)
    api.resume(part.root)
    assert prints(RunDirectory(part.root)) == prints(whole)


def test_a_run_that_was_interrupted_before_it_had_the_weights_takes_them_again(tuned, begun):
    whole, part = tuned(), begun(name="part")
    for file in (
        f"{part}/checkpoints/step-00000000/block-02.json",
        f"{part}/checkpoints/step-00000000/classifier.json",
    ):
        Path(file).unlink()
    api.resume(part.root)
    assert prints(RunDirectory(part.root)) == prints(whole)


def test_a_source_that_has_changed_or_gone_is_told_where_it_is_still_needed(begun, small_run):
    part = begun()
    shutil.rmtree(f"{part}/checkpoints")
    source = part.config().training.init_from
    api.resume(source, ["training.max_steps=13"])
    with pytest.raises(UserError, match=f"init_from={source}: its weights are others than those that .* began with"):
        api.resume(part.root)
    shutil.rmtree(source)
    with pytest.raises(UserError, match="source: holds no run"):
        api.resume(part.root)


def test_a_damaged_beginning_is_not_replaced_by_weights_at_random(begun):
    part = begun()
    Path(f"{part}/checkpoints/step-00000000/block-02.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="no snapshot of block 2 is whole, not even that of step 0 with the weights of"):
        api.resume(part.root)


@pytest.mark.parametrize("damage", ["edited", "deleted"])
def test_the_weights_that_a_run_began_with_belong_to_what_it_is(tuned, damage):
    run = tuned()
    file = Path(f"{run}/start.json")
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"sha256": values["sha256"] | {"block-01": "0" * 64}}))
    if damage == "deleted":
        file.unlink()
    for use in (api.load, api.report, api.resume):
        with pytest.raises(UserError, match=r"trained with training.init_from's weights=.*\(start.json\)"):
            use(run.root)


@pytest.mark.parametrize("content", ["[]", "{}", "x", '{"run": "a", "step": -1, "sha256": {}}'])
def test_a_damaged_start_json_is_told_once_and_no_snapshot_is_blamed(tuned, content):
    run = tuned("checkpoint.num_to_keep=1")
    Path(f"{run}/start.json").write_text(content)
    for use in (api.load, api.report, api.resume, api.inspect):
        with pytest.raises(UserError, match=r"^[^;]*tuned: start.json cannot be read: [^;]*$"):
            use(run.root)


def test_the_source_is_a_setting_that_changes_bits(tuned):
    run = tuned()
    with pytest.raises(UserError, match="training.init_from=null: this run has training.init_from=.*fixes the bits"):
        api.resume(run.root, ["training.init_from=null"])


def test_a_learned_w_embed_is_taken_over(tuned):
    run = tuned(LEARNED, "training.max_steps=1", "embedding.learning_rate=1e-9", source=[LEARNED])
    ours, theirs = (RunDirectory(root).checkpoints.load_all()[EMBEDDING].weights["weight"]
                    for root in (run.root, run.config().training.init_from))  # fmt: skip
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (["blocks.count=2"], [], "blocks.count is 2 there and 3 here"),
        ([LEARNED], [], "a learned W_embed is yes there and no here"),
        (["blocks.network.width=8"], [], r"of block 1 is \(8, .*\) there and \(16, .*\) here"),
        (["blocks.networks.2={kind: small-conv}"], [], "of block 2 is (not|.*) there and (not|.*) here"),
        (["blocks.only=1-2", "checkpoint.every_steps=12"], [], "has no weights of block 3"),
        ([], ["data=npz"], "number of classes is 10 there and 4 here"),
    ],
)  # fmt: skip
def test_a_source_that_does_not_fit_is_refused_in_a_sentence_and_nothing_is_written(
    begun, tmp_path, source, settings, message
):
    if settings:
        labels = np.arange(200) % 4
        np.savez(tmp_path / "d.npz", x_train=np.zeros((200, 8, 8), np.uint8), y_train=labels)
        settings = ["data.name=npz", f"data.root={tmp_path / 'd.npz'}"]
    with pytest.raises(UserError, match=f"training.init_from=.*source: .*{message}"):
        begun(*settings, source=source)
    assert not (tmp_path / "begun").exists()


def test_a_source_without_a_checkpoint_and_a_secret_in_its_name_are_refused(small_config, tmp_path):
    with pytest.raises(UserError, match="^training.init_from: .*nowhere: holds no run"):
        api.plan(small_config(f"training.init_from={tmp_path / 'nowhere'}"))
    with pytest.raises(UserError, match="training.init_from: carries a secret") as refused:
        small_config("training.init_from=s3://name:password@bucket/run")
    assert "password" not in str(refused.value)


def test_what_a_stranger_s_run_begins_with_is_not_read_without_trust(tuned, tmp_path, monkeypatch):
    run = tuned()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    with pytest.raises(UserError, match="resuming it would use training.init_from=.*--trust-code.*allows it"):
        api.resume(run.root)
    api.resume(run.root, trust_code=True)


def test_blocks_that_began_with_one_source_are_merged(small_run, tmp_path):
    source = small_run(name="source").root
    tuned = [f"training.init_from={source}", *TUNED]
    parts = [small_run(*tuned, f"blocks.only={only}", name=f"part{only}").root for only in ("1-2", "3")]
    api.merge(str(tmp_path / "merged"), parts)
    merged = RunDirectory(str(tmp_path / "merged"))
    assert prints(merged) == prints(small_run(*tuned, name="whole"))
    api.resume(source, ["training.max_steps=13"])
    other = small_run(*tuned, "blocks.only=3", name="other").root
    with pytest.raises(UserError, match="cannot be merged: block-01 is "):
        api.merge(str(tmp_path / "not"), [parts[0], other])


def test_the_baseline_begins_anew(small_config):
    with pytest.raises(UserError, match="training.init_from is not allowed with method=backprop"):
        small_config("method=backprop", "training.init_from=x")
