"""What the fuzz test has found: files of a run that are whole as JSON or by their checksums, and still say nonsense."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noprop_dist import api
from noprop_dist.cli.inspect import show_run
from noprop_dist.data.dataset import DataFacts
from noprop_dist.errors import UserError
from noprop_dist.files import CHECKSUM
from noprop_dist.storage.lock import only_writer
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.storage.store import Store

STEP = "checkpoints/step-00000012"
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def finished(sequential: Callable[..., Path]) -> Path:
    return sequential("blocks.count=2", "blocks.network={kind: mlp, width: 16, depth: 1}", "training.max_steps=12")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def of_no_known_run(run: Path) -> None:
    """Entries and manifests as older versions wrote them, which do not say of which run they are."""
    for file in (run / STEP).glob("*.json"):
        edit(file, lambda values: [values.pop(key) for key in ("run", CHECKSUM)])
    (run / "identity.json").unlink()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("files", each) for each in (["block-01.safetensors"], {"block-01.safetensors": None}, 1.5, "x")],
        *[("sha256", each) for each in (None, 7, ["x"], "x", {"a": 1})],
        *[("trained_with", each) for each in ([1], {"torch": 2})],
        ("stage", 2),
    ],
)
def test_an_entry_of_other_types_is_refused(run: Path, key: str, value: object) -> None:
    edit(run / STEP / "manifest.json", lambda manifest: manifest["stages"][0].update({key: value}))
    with pytest.raises(UserError, match="manifest.json of step 12 cannot be read"):
        api.inspect(str(run))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("software", each) for each in (1.5, "torch", [["torch", 2]], {"torch": 2})],
        *[("merged_from", each) for each in (["x"], {"block-01": 1})],
        *[
            ("changes", each)
            for each in ([5], [{"setting": 5, "from_step": {}}], [{"setting": "seed=1", "from_step": 1}])
        ],
    ],
)
def test_a_manifest_of_other_types_is_refused(run: Path, key: str, value: object) -> None:
    edit(run / STEP / "manifest.json", lambda manifest: manifest.update({key: value}))
    with pytest.raises(UserError, match="manifest.json of step 12 cannot be read"):
        api.inspect(str(run))


def test_python_warns_of_a_damaged_checkpoint_and_refuses_it_where_it_is_named(tmp_path: Path, small_config) -> None:
    result = api.train(small_config("engine.kind=sequential", "checkpoint.every_steps=6"), str(tmp_path / "run"))
    file = tmp_path / "run" / STEP / "block-02.safetensors"
    file.write_bytes(file.read_bytes() + b"?")
    np.savez(tmp_path / "images.npz", x=np.zeros((2, 8, 8), np.uint8))
    images, told = tmp_path / "images.npz", "block-02.safetensors of step 12 is damaged .*; the one before it is used"
    for read in (
        lambda **options: api.load(result, **options),
        lambda **options: api.predict(result, images, **options),
        lambda **options: api.predict_into(result, images, tmp_path / "out.csv", **options),
    ):
        with pytest.warns(UserWarning, match=told) as warned:
            read()
        assert [each.filename for each in warned] == [__file__]
        with pytest.raises(UserError, match="block-02.safetensors of step 12 is damaged"):
            read(checkpoint=12)


@pytest.mark.parametrize(
    "change", [5, {"setting": 5, "from_step": {}}, {"setting": "seed=1"}, {"setting": "a", "from_step": [1]}]
)
def test_changes_of_other_types_are_refused(run: Path, change: object) -> None:
    (run / "changes.json").write_text(json.dumps([change]))
    with pytest.raises(UserError, match="changes.json cannot be read"):
        api.inspect(str(run))


@pytest.mark.parametrize(
    ("content", "held"), [("", "nothing"), ("null", "nothing"), ("[1]", "a list"), ("3", "a number")]
)
def test_a_configuration_that_holds_no_settings_is_refused(run: Path, content: str, held: str) -> None:
    (run / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=f"must hold settings such as `seed: 1`, it holds {held}"):
        api.inspect(str(run))


@pytest.mark.parametrize("file", [f"{STEP}/manifest.json", "data.json", "changes.json"])
def test_json_that_is_nested_too_deeply_is_refused(run: Path, file: str) -> None:
    (run / file).write_text(DEEP)
    with pytest.raises(UserError, match="it is nested too deeply"):
        api.inspect(str(run))


def test_an_entry_that_is_nested_too_deeply_costs_its_snapshot_alone(run: Path) -> None:
    (run / STEP / "block-01.json").write_text(DEEP)
    (run / STEP / "manifest.json").unlink()
    assert api.resume(str(run)).step == 12


def test_weights_that_fit_no_network_of_the_run_are_told(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("width: 16", "width: 8"))
    of_no_known_run(run)
    told = "the snapshot of block 1 at step 12 does not fit the run's network and optimiser: "
    told += r"\S+ is \(16, 64\) in the snapshot and \(8, 64\) in the network"
    with pytest.raises(UserError, match=told):
        api.open_run(str(run))
    (run / STEP / "manifest.json").unlink()
    with pytest.raises(UserError, match=told):
        api.resume(str(run), ["engine.kind=sequential", "evaluation.samples=9"])


def test_a_snapshot_under_the_name_of_another_block_is_refused(run: Path) -> None:
    """Its checksums are right: blocks of one size can be taken for each other without a word."""
    manifest = json.loads((run / STEP / "manifest.json").read_text())
    del manifest[CHECKSUM]
    for suffix in (".safetensors", ".optimizer.safetensors"):
        content = (run / STEP / f"block-02{suffix}").read_bytes()
        (run / STEP / f"block-01{suffix}").write_bytes(content)
        manifest["stages"][0]["files"][f"block-01{suffix}"] = hashlib.sha256(content).hexdigest()
    (run / STEP / "manifest.json").write_text(json.dumps(manifest))
    told = "block-01 of step 12 is no snapshot: it says that it is of block 2"
    with pytest.raises(UserError, match=told):
        api.open_run(str(run))


def test_a_network_is_read_without_the_state_of_its_optimisers(run: Path) -> None:
    accuracy = api.evaluate(str(run)).accuracy
    for file in (run / STEP).glob("*.optimizer.safetensors"):
        file.write_bytes(b"")
    opened = api.open_run(str(run))
    assert opened.warnings == ()
    assert api.evaluate(opened).accuracy == accuracy
    (run / STEP / "block-01.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"block-01.safetensors of step 12 is damaged"):
        api.open_run(str(run), checkpoint=12)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("input_shape", each) for each in ([], [0, 8, 8], [-1, 8, 8])],
        *[("samples", each) for each in ({}, {"train": 5}, {"train": 0, "validation": 1, "test": 1})],
        *[("mean", each) for each in ([], [0.1, 0.2], [float("nan")])],
        *[("std", each) for each in ([], [0.0], [-1.0], [float("inf")])],
        ("class_names", []),
    ],
)
def test_facts_that_no_data_set_can_have_are_refused(key: str, value: object) -> None:
    facts = DataFacts("x", (1, 8, 8), ("a", "b"), (0.0,), (1.0,), {"train": 9, "validation": 1, "test": 1}, "")
    assert DataFacts.from_json(facts.to_json()) == facts
    with pytest.raises(
        ValueError, match=f"{'mean and std' if key == 'std' else key.removesuffix('_names')}|shape|class"
    ):
        DataFacts.from_json({**facts.to_json(), key: value})


def test_a_message_is_one_line_of_bounded_length() -> None:
    told = str(UserError("a\nb\x1b[31m" + "x" * 10_000))
    assert told.startswith("a\\nb\\x1b[31mxxx")
    assert len(told) < 2100


@pytest.mark.parametrize("owner", [b"[1]", b"5", b"null", b'{"pid": 1}', b"\xff"])
def test_a_lock_whose_owner_cannot_be_read_is_still_a_lock(
    tmp_path: Path, owner: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noprop_dist.storage.lock.WAIT_SECONDS", 0.0)
    store = Store(str(tmp_path / "run"))
    with only_writer(store):
        (tmp_path / "run" / "run.lock").write_bytes(owner)
        with pytest.raises(UserError, match="another process is writing this run"), only_writer(store):
            pass
    assert not RunDirectory(str(tmp_path / "run")).holds_run


def test_inspect_shows_the_newest_snapshots_of_a_run_without_a_whole_checkpoint(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / STEP / "manifest.json").unlink()
    for file in (run / STEP).glob("block-02*"):
        file.unlink()
    contents = api.inspect(str(run))
    steps = {stage.name: entry and entry.step for stage, entry in contents.newest.items()}
    assert contents.manifest is None
    assert steps == {"block 1": 12, "block 2": None, "classifier": 12}
    show_run(str(run), as_json=False)
    text = capsys.readouterr().out
    assert "no whole checkpoint yet; newest snapshots, from which `noprop-dist resume` continues" in text
    assert "none yet" in text
    show_run(str(run), as_json=True)
    whole = json.loads(capsys.readouterr().out)
    assert whole["checkpoint"] is None
    assert whole["newest_snapshots"] == {"block 1": 12, "block 2": 0, "classifier": 12}
    assert [block["step"] for block in whole["blocks"]] == [12, 0]


def test_inspect_shows_newer_snapshots_beside_the_last_checkpoint(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = RunDirectory(str(run)).checkpoints
    checkpoints.save(replace(checkpoints.load(checkpoints.entry(12, "block-01")), step=15), 2, {})
    newest = {stage.name: entry and entry.step for stage, entry in api.inspect(str(run)).newest.items()}
    assert newest == {"block 1": 15, "block 2": 12, "classifier": 12}
    show_run(str(run), as_json=False)
    text = capsys.readouterr().out
    assert "checkpoint of step 12" in text
    assert "newest snapshots, from which" in text


def test_inspect_shows_no_damaged_weights_as_sound(run: Path) -> None:
    assert api.inspect(str(run)).warnings == ()
    (run / STEP / "block-02.safetensors").write_bytes(b"")
    (run / STEP / "block-01.optimizer.safetensors").unlink()
    missing, damaged = api.inspect(str(run)).warnings
    assert "block-01.optimizer.safetensors of step 12 cannot be read" in missing
    assert "block-02.safetensors of step 12 is damaged" in damaged
