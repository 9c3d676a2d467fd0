"""JSON files of a run directory that hold something else: the file is named, and what is wrong, in words of JSON."""

import json
import re
import shutil

import pytest

from noprop_dist import api
from noprop_dist.config.layers import load_config
from noprop_dist.errors import UserError
from noprop_dist.files import JsonObject, parse_json
from noprop_dist.storage import trust

STEP = "checkpoints/step-00000012"
OF_PYTHON = ("object has no", "indices must be", "not subscriptable", "iterable", "Expecting", "codec", "dict", "None")
OTHERS = {
    "[]": "it is a list, not an object",
    "null": "it is null, not an object",
    "3": "it is a number, not an object",
    '"x"': "it is a text, not an object",
    "true": "it is a truth value, not an object",
    "{}": "(is missing|field required)$",
    "": "it is no JSON: it is empty",
    '{"step": 12,\n': "it is no JSON: it breaks off or is wrong in line 2, column 1",
}


@pytest.fixture(scope="module")
def finished(sequential):
    return sequential("blocks.count=2", "blocks.network={kind: mlp, width: 16, depth: 1}", "training.max_steps=12")


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def refused(run):
    with pytest.raises(UserError) as error:
        api.inspect(str(run))
    assert not any(word in str(error.value) for word in OF_PYTHON), error.value
    return str(error.value).removeprefix(f"{run}: ")


@pytest.mark.parametrize(("content", "told"), OTHERS.items())
def test_whatever_a_file_holds_is_told_in_words_of_json(run, content, told):
    for file, name in (("data.json", "data.json"), (f"{STEP}/manifest.json", "manifest.json of step 12")):
        whole = (run / file).read_bytes()
        (run / file).write_text(content)
        said = refused(run)
        assert said.startswith(f"{name} cannot be read: ")
        assert re.search(told, said)
        (run / file).write_bytes(whole)
    (run / "changes.json").write_text(content)
    if content != "[]":  # nothing was changed
        assert refused(run).startswith("changes.json cannot be read: it is")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stages": 3}, "stages is a number, not a list"),
        ({"stages": {}}, "stages is an object, not a list"),
        ({"stages": [3]}, "an entry is a number, not an object"),
        ({"stages": [{"name": "block-01"}]}, "files is missing"),
        ({"changes": None}, "changes is null, not a list"),
        ({"changes": [[]]}, "a change is a list, not an object"),
        ({"changes": [{"setting": "a"}]}, "from_step is missing"),
        ({"changes": [{"setting": "a", "from_step": []}]}, "from_step is a list, not an object"),
    ],
)
def test_so_is_what_a_manifest_holds(run, change, told):
    file = run / STEP / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert refused(run) == f"manifest.json of step 12 cannot be read: {told}"


@pytest.mark.parametrize("change", [{"kind": []}, {"kind": None}, {"stage": None}, {"stage": "x"}, {"stage": {}}])
def test_so_is_an_entry_of_a_stage_that_there_is_not(run, change):
    file = run / STEP / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["stages"][0].update(change)
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="manifest.json of step 12 cannot be read: it says that it is of "):
        api.inspect(str(run))


@pytest.mark.parametrize("content", [*OTHERS, "[" * 100_000])
def test_an_entry_costs_its_snapshot_alone(run, content):
    (run / STEP / "block-01.json").write_text(content)
    (run / STEP / "manifest.json").unlink()
    said = []
    assert api.resume(str(run), watcher=api.Watcher(lambda progress: said.extend(progress.news))).step == 12
    (told,) = {line for line in said if "block-01" in line}
    assert "block-01.json of step 12 cannot be read: " in told
    assert not any(word in told for word in OF_PYTHON)


@pytest.mark.parametrize("content", [*OTHERS, "[" * 100_000, "\x00"])
def test_what_the_home_holds_allows_nothing_and_ends_nothing(tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    config = load_config("digits", None, ["engine.address=ray://known:1"])
    trust.remember(config)
    file = tmp_path / "noprop-dist/trained-with.jsonl"
    known = file.read_bytes()
    file.write_bytes(content.encode() + b"\n" + known)
    trust.remember(config)
    assert file.read_bytes() == content.encode() + b"\n" + known, "it is known, and not noted again"


def test_a_file_that_is_no_text_is_told():
    with pytest.raises(ValueError, match="it is no JSON: it is no text"):
        parse_json(b"\xff\xff", JsonObject)
