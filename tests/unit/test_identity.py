"""A run goes on, and is measured, with its own settings, data and snapshots; all else is refused, both sides named."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from noprop_dist import api
from noprop_dist.config.layers import load_config
from noprop_dist.errors import UserError
from noprop_dist.files import CHECKSUM
from noprop_dist.records import News
from noprop_dist.storage.identity import OtherRunError
from noprop_dist.storage.run_directory import RunDirectory

SMALL = ["blocks.count=2", "blocks.network={kind: mlp, width: 8, depth: 1}", "training.max_steps=12",
         "training.batch_size=16", "checkpoint.every_steps=4", "checkpoint.num_to_keep=9", "evaluation.samples=16",
         "engine.kind=sequential"]  # fmt: skip


pytestmark = pytest.mark.usefixtures("undrawn")


def write_data(file, seed=0, samples=200, features=6, classes=4, **arrays):
    random = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    np.savez(file, **{"x_train": random.normal(size=(samples, features)), "y_train": labels, **arrays})


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A finished run on d.npz, and the way to make it an unfinished one."""
    monkeypatch.chdir(tmp_path)
    write_data("d.npz")

    def run(name, *settings, last=4):
        data = ["data.name=npz", "data.root=d.npz"]
        api.train(load_config("digits", None, [*SMALL, *data, *settings]), name)
        if last:
            for step in range(last + 4, 16, 4):
                shutil.rmtree(f"{name}/checkpoints/step-{step:08d}")
        return Path(name)

    return run


def fingerprints(run):
    return [entry.sha256 for entry in RunDirectory(str(run)).checkpoints.manifest().stages]


def edit(file, before, after):
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


def test_a_run_that_goes_on_has_the_bits_of_one_that_never_stopped(train):
    whole, part = train("whole", last=None), train("part")
    api.resume(str(part))
    assert fingerprints(part) == fingerprints(whole)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seed: 0\nmethod", "seed: 5\nmethod", "seed=0, and this run has seed=5"),
        ("batch_size: 16", "batch_size: 8", "training.batch_size=16, and this run has training.batch_size=8"),
        ("max_steps: 12", "max_steps: 24", "training.max_steps=12, and this run has training.max_steps=24"),
        (
            "  training: {}",
            "  training: {2: {learning_rate: 0.5}}",
            "blocks.training.2.learning_rate=null, and this run has blocks.training.2.learning_rate=0.5",
        ),
    ],
)
@pytest.mark.parametrize("manifests", [True, False])
def test_an_edited_setting_that_changes_bits_is_refused(train, before, after, message, manifests):
    part = train("part")
    if not manifests:
        (part / "checkpoints/step-00000004/manifest.json").unlink()
    edit(part / "config.yaml", before, after)
    with pytest.raises(UserError, match=rf"was trained with {message} \(config.yaml\)"):
        api.resume(str(part))
    if manifests:
        with pytest.raises(UserError, match=message):
            api.open_run(str(part))


def test_an_edited_setting_that_changes_no_bits_is_fine(train):
    whole, part = train("whole", last=None), train("part")
    edit(part / "config.yaml", "num_to_keep: 9", "num_to_keep: 1")
    api.resume(str(part))
    assert fingerprints(part) == fingerprints(whole)


def test_the_snapshot_of_another_run_is_refused(train):
    part, other = train("part"), train("other", "seed=9")
    for file in (other / "checkpoints/step-00000004").glob("block-01.*"):
        shutil.copy(file, part / "checkpoints/step-00000004")
    before = sorted((file, file.read_bytes()) for file in part.rglob("*") if file.is_file())
    with pytest.raises(UserError, match="block-01 of step 4 was trained with seed=9, and this run has seed=0"):
        api.resume(str(part), ["classifier.learning_rate=0.5"])
    assert sorted((file, file.read_bytes()) for file in part.rglob("*") if file.is_file()) == before


def test_the_checkpoint_of_another_run_is_refused_by_whatever_reads_it(train):
    part, other = train("part"), train("other", "blocks.networks.2={kind: mlp, width: 8, depth: 2}", last=8)
    shutil.copytree(other / "checkpoints/step-00000008", part / "checkpoints/step-00000008")
    for read in (api.open_run, api.report, api.resume):
        with pytest.raises(UserError, match="of step 8 was trained with blocks.networks.2.kind=mlp, and this run has"):
            read(str(part))
    (warning,) = api.inspect(str(part)).warnings
    assert "step 8 was trained with blocks.networks.2.kind=mlp" in warning, "to be looked at it is shown"


def test_other_data_is_refused_and_both_fingerprints_are_named(train):
    part = train("part")
    own = RunDirectory("part").facts().sha256[:16]
    write_data("d.npz", seed=1)
    message = f"part: was trained on other data than data.root=.*d.npz holds: .* training samples {own} there and"
    with pytest.raises(UserError, match=message):
        api.resume(str(part))
    with pytest.raises(UserError, match=message):
        api.evaluate(api.open_run(str(part)))
    assert message.partition(":")[0]
    assert "was trained on other data than" in api.report(str(part)).left_out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": 7}, r"shape of a sample \(6,\) there and \(7,\) here"),
        ({"classes": 5}, "classes 0, 1, 2, 3 there and 0, 1, 2, 3, 4 here"),
    ],
)
def test_data_of_another_shape_or_with_other_classes_is_refused(train, changed, message):
    run = api.open_run(str(train("part")))
    write_data("d.npz", **changed)
    with pytest.raises(UserError, match=message):
        api.evaluate(run)


def test_other_test_samples_are_refused_though_the_training_samples_are_the_same(tmp_path, train):
    tests = {"x_test": np.zeros((8, 6)), "y_test": np.zeros(8, np.int64)}
    write_data("d.npz", **tests)
    run = api.open_run(str(train("part")))
    write_data("d.npz", **{**tests, "y_test": np.ones(8, np.int64)})
    with pytest.raises(UserError, match="fingerprint of the test samples"):
        api.evaluate(run)


def test_other_validation_samples_are_refused_for_checkpoints_are_compared_by_them(train):
    held_out = {"x_val": np.zeros((8, 6)), "y_val": np.zeros(8, np.int64)}
    write_data("d.npz", **held_out)
    part = train("part")
    write_data("d.npz", **{**held_out, "y_val": np.ones(8, np.int64)})
    with pytest.raises(UserError, match="fingerprint of the validation samples"):
        api.resume(str(part))


@pytest.mark.parametrize("key", ["test_sha256", "validation_sha256"])
def test_a_fingerprint_of_held_out_samples_is_not_erased_from_data_json(train, key):
    part = train("part")
    facts = json.loads((part / "data.json").read_text())
    (part / "data.json").write_text(json.dumps(facts | {key: ""}))
    with pytest.raises(UserError, match=rf"was trained with samples.{key}=.*data.json"):
        api.open_run(str(part))


def test_an_edited_data_json_is_refused(train):
    part = train("part")
    write_data("d.npz", seed=1)
    facts = RunDirectory(str(part)).facts()
    edit(part / "data.json", facts.sha256, "0" * 64)
    with pytest.raises(UserError, match=r"samples.sha256=.*, and this run has samples.sha256=0.* \(data.json\)"):
        api.resume(str(part))


@pytest.mark.parametrize("key", ["mean", "std"])
def test_an_edited_normalisation_is_refused_by_whatever_uses_it(train, key):
    run = train("run", last=None)
    facts = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(facts | {key: [value + 1 for value in facts[key]]}))
    for use in (api.open_run, api.report, api.resume):
        with pytest.raises(UserError, match=rf"was trained with samples.{key}=.*data.json"):
            use(str(run))


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("mean", lambda values: [value + 1 for value in values], "says that the mean of the samples is .*, and it is"),
        ("std", lambda values: [value * 2 for value in values], "says that the deviation of the samples is"),
        ("samples", lambda values: {**values, "train": 9}, "numbers of samples 9 train, .* there and 1.. train, "),
    ],
)
def test_a_data_json_that_was_edited_before_the_first_snapshot_is_refused(train, key, change, message):
    part = train("part")
    shutil.rmtree(part / "checkpoints")
    facts = json.loads((part / "data.json").read_text())
    (part / "data.json").write_text(json.dumps(facts | {key: change(facts[key])}))
    with pytest.raises(UserError, match=message):
        api.resume(str(part))


@pytest.mark.parametrize("setting", ["seed=7", "training.batch_size=8", "blocks.network.width=9"])
def test_changes_that_no_resume_makes_are_refused(train, setting):
    part = train("part")
    (part / "changes.json").write_text(json.dumps([{"setting": setting, "from_step": {}}]))
    with pytest.raises(UserError, match=f"changes.json has {setting}, which no resume may change"):
        api.resume(str(part))


def test_a_snapshot_of_another_block_is_not_taken_for_this_one(train):
    whole, part = train("whole", last=None), train("part")
    folder = part / "checkpoints/step-00000004"
    entry = json.loads((folder / "block-01.json").read_text())
    del entry[CHECKSUM]
    for suffix in (".safetensors", ".optimizer.safetensors"):
        shutil.copy(folder / f"block-02{suffix}", folder / f"block-01{suffix}")
        content = (folder / f"block-01{suffix}").read_bytes()
        entry["files"][f"block-01{suffix}"] = hashlib.sha256(content).hexdigest()
    (folder / "block-01.json").write_text(json.dumps(entry))
    api.resume(str(part))
    told = [record.text for record in RunDirectory(str(part)).metrics() if isinstance(record, News)]
    assert "block-01 of step 4 is no snapshot: it says that it is of block 2; the one before it is used" in str(told)
    assert fingerprints(part) == fingerprints(whole)


def test_a_run_is_found_from_other_folders_and_its_data_may_move(train, tmp_path, monkeypatch):
    whole, part = (train(name, last=last).absolute() for name, last in (("whole", None), ("part", 4)))
    assert RunDirectory(str(part)).config().data.root == str(tmp_path / "d.npz")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    accuracy = api.evaluate(api.open_run(str(whole))).accuracy
    (tmp_path / "d.npz").rename(tmp_path / "away" / "moved.npz")
    with pytest.raises(
        UserError, match="there is no such file; if the data of .*whole has moved, --data-root .data_root=…. says"
    ):
        api.evaluate(api.open_run(str(whole)))
    assert api.evaluate(api.open_run(str(whole)), data_root="moved.npz").accuracy == accuracy
    assert api.report(str(whole), "moved.npz").left_out is None
    api.resume(str(part), ["data.root=moved.npz"])
    assert fingerprints(part) == fingerprints(whole)
    write_data("other.npz", seed=1)
    with pytest.raises(UserError, match="other data"):
        api.report(str(whole), "other.npz")


def test_what_a_resume_changed_for_one_stage_is_no_other_run(train):
    part = train("part")
    api.resume(str(part), ["classifier.learning_rate=0.5"])
    for step in (8, 12):
        shutil.rmtree(part / f"checkpoints/step-{step:08d}")
    api.resume(str(part))
    manifest = RunDirectory(str(part)).checkpoints.manifest()
    assert [(change.setting, change.from_step["classifier"]) for change in manifest.changes] == [
        ("classifier.learning_rate=0.5", 4)
    ]
    shutil.rmtree(part / "checkpoints/step-00000012")
    (part / "changes.json").unlink()
    with pytest.raises(UserError, match=r"trained with classifier.learning_rate=0.5 \(by a resume\), and changes.json"):
        api.resume(str(part))


def test_a_run_of_an_earlier_version_has_no_identity_and_gets_one_as_it_goes_on(train):
    part = train("part")
    for file in (part / "checkpoints").rglob("*.json"):
        values = json.loads(file.read_text())
        added = ("run", "trained_with", CHECKSUM)
        file.write_text(json.dumps({key: value for key, value in values.items() if key not in added}))
    (part / "identity.json").unlink()
    edit(part / "data.json", RunDirectory(str(part)).facts().test_sha256, "")
    api.evaluate(api.open_run(str(part)))
    api.resume(str(part))
    folder = part / "checkpoints/step-00000012"
    assert json.loads((folder / "block-01.json").read_text())["run"]["seed"] == 0
    assert json.loads((folder / "manifest.json").read_text())["run"]["seed"] == 0


def test_an_identity_does_not_grow_with_the_number_of_blocks(train):
    networks = "blocks.networks={1: {kind: mlp, width: 9}, 2: {kind: mlp, width: 7}}"
    folder = train("run", networks) / "checkpoints/step-00000004"
    keys = [set(json.loads((folder / f"{name}.json").read_text())["run"]) for name in ("block-01", "classifier")]
    assert "blocks.networks.1.width" in keys[0]
    assert not {"blocks.networks.2.width"} & keys[0]
    assert not {"blocks.networks.1.width", "blocks.networks.2.width"} & keys[1]


def test_another_torch_than_the_one_that_trained_is_told_once(train):
    part = train("part")
    for file in (part / "checkpoints/step-00000004").glob("*.json"):
        text = file.read_text().replace('"trained_with": {"torch": "', '"trained_with": {"torch": "0.')
        file.write_text(text.replace(CHECKSUM, "unknown"))
    api.resume(str(part))
    news = [record.text for record in RunDirectory(str(part)).metrics() if isinstance(record, News)]
    told = [text for text in news if "so far and goes on with torch" in text]
    assert len(told) == 1
    assert "was trained with torch 0." in told[0]


def test_a_damaged_line_of_metrics_is_told_and_blocks_nothing(train):
    whole, part = train("whole", last=None), train("part")
    with (part / "metrics.jsonl").open("ab") as file:
        file.write(b"\0" * 512 + b"\n")
    assert "1 line(s) of metrics.jsonl are damaged" in api.inspect(str(part)).warnings[0]
    api.resume(str(part))
    assert fingerprints(part) == fingerprints(whole)
    assert api.inspect(str(part)).warnings == ()
    assert "set aside" in next(r.text for r in RunDirectory(str(part)).metrics() if isinstance(r, News))
    assert (part / "metrics.bad.jsonl").read_bytes() == b"\0" * 512 + b"\n"


def test_a_run_goes_on_without_any_metrics(train):
    whole, part = train("whole", last=None), train("part")
    (part / "metrics.jsonl").unlink()
    assert api.report(str(part)).left_out is None
    api.resume(str(part))
    assert fingerprints(part) == fingerprints(whole)


@pytest.mark.parametrize("name", ["block-01.json", "manifest.json"])
def test_a_flipped_bit_in_an_entry_or_a_manifest_is_damage_wherever_it_is(train, name):
    """In the identity, too: it made a snapshot one of another run, and a resume was refused."""
    part = train("part")
    file, checkpoints = part / "checkpoints/step-00000004" / name, RunDirectory(str(part)).checkpoints
    whole = file.read_bytes()
    read = checkpoints.manifest if name == "manifest.json" else (lambda step: checkpoints.entry(step, "block-01"))
    before, passed = read(4), 0
    for content in flipped(whole):
        file.write_bytes(content)
        try:
            passed += 1
            assert read(4) == before, "a bit of the checksum's own key"
        except OtherRunError as error:
            pytest.fail(str(error))
        except UserError:
            passed -= 1
    assert passed <= 2 * len(CHECKSUM)


def flipped(content):
    """The content with one bit flipped, once for every byte."""
    for place in range(len(content)):
        yield content[:place] + bytes([content[place] ^ (1 << place % 7)]) + content[place + 1 :]


def test_a_run_goes_on_where_the_identity_in_an_entry_has_a_flipped_bit(train):
    whole, part = train("whole", last=None), train("part")
    folder = part / "checkpoints/step-00000004"
    (folder / "manifest.json").unlink()
    edit(folder / "block-01.json", '"seed": 0', '"seed": 1')
    api.resume(str(part))
    told = str([record.text for record in RunDirectory(str(part)).metrics() if isinstance(record, News)])
    assert "block-01.json of step 4 cannot be read: it is damaged, or was edited" in told
    assert fingerprints(part) == fingerprints(whole)


@pytest.mark.parametrize(
    ("file", "before", "after", "message"),
    [
        ("config.yaml", "batch_size: 16", "batch_size: 06", "training.batch_size=16, and config.yaml says"),
        ("config.yaml", "learning_rate: 0.001", "learning_rate: 0.003", "learning_rate=0.001, and config.yaml says"),
    ],
)
def test_a_flipped_bit_in_the_configuration_is_told_before_there_is_any_snapshot(train, file, before, after, message):
    """It trained something else without a word."""
    part = train("part")
    shutil.rmtree(part / "checkpoints")
    edit(part / file, before, after)
    with pytest.raises(UserError, match=rf"part: the run began with .*{message}.* that file is damaged, or was edited"):
        api.resume(str(part))


@pytest.mark.parametrize("content", [b"", b"[", b'{"run": 5}', b'{"run": {"seed": 7}, "sha256_of_this": "?"}'])
def test_what_a_run_began_as_blocks_nothing_where_it_is_damaged(train, content):
    part = train("part")
    (part / "identity.json").write_bytes(content)
    assert api.resume(str(part)).step == 12


def test_a_flipped_bit_in_changes_json_is_told(train):
    part = train("part")
    RunDirectory(str(part)).add_changes(["classifier.learning_rate=0.5"], {"classifier": 4})
    edit(part / "changes.json", "0.5", "0.7")
    with pytest.raises(UserError, match=r"changes.json cannot be read: it is damaged, or was edited"):
        api.resume(str(part))
