"""A network of the user's own is told from what its file was when it was trained; it is a warning, no refusal."""

import json
import shutil
import sys

import pytest

from noprop_dist import api
from noprop_dist.errors import UserError
from noprop_dist.models import custom
from noprop_dist.models.custom import source_of
from noprop_dist.records import News
from noprop_dist.storage.run_directory import RunDirectory

NETWORK = """
import torch
class Net(torch.nn.Module):
    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.linear = torch.nn.Linear(embedding_dim, classes)
    def forward(self, x, z):
        return self.linear(z)
"""
OUTER = [f"blocks.network={{kind: custom, path: '{name}:Net'}}" for name in ("outer_net", "inner_net")]
STEP = "checkpoints/step-00000012"


@pytest.fixture
def train(small_config, tmp_path, monkeypatch):
    """Trains a run whose network is imported from one module and defined in another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(custom, "_no_code_in", set())
    for name, text in (("inner_net", NETWORK), ("outer_net", "from inner_net import Net\n")):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text)

    def run(name, *settings):
        config = small_config("engine.kind=sequential", "checkpoint.every_steps=4", OUTER[0], *settings)
        api.train(config, name)
        return tmp_path / name

    yield run
    for name in ("inner_net", "outer_net"):
        sys.modules.pop(name, None)


@pytest.fixture
def edit(tmp_path):
    """Edits the file of the module that defines the network."""
    return lambda: (tmp_path / "inner_net.py").write_text(NETWORK + "# edited\n")


@pytest.mark.usefixtures("undrawn")
def test_a_changed_file_is_told_once_with_both_fingerprints_by_whatever_imports_it(train, edit):
    run = train("run")
    assert api.open_run("run").warnings == ()
    before = source_of("outer_net:Net")
    edit()
    after = source_of("outer_net:Net")
    assert before.module == after.module == "inner_net"
    (told,) = api.open_run("run").warnings
    assert f"{before.file}, which defines outer_net:Net (module inner_net), has changed since" in told
    assert f"was {before.sha256[:16]} and is {after.sha256[:16]}" in told
    assert api.report("run").notes == (told,)
    shutil.rmtree(run / STEP)
    api.resume("run")
    assert [each.text for each in RunDirectory("run").metrics() if isinstance(each, News)].count(told) == 1
    assert api.open_run("run").warnings == (), "the steps after it were trained with what is there now"


def test_parts_that_were_trained_with_other_files_are_told_by_merge(train, edit):
    train("first", "blocks.only=1")
    edit()
    train("second", "blocks.only=2-3")
    (told,) = [each for each in api.merge("out", ["first", "second"]).warnings if "outer_net:Net" in each]
    assert "the file that defines outer_net:Net was another when" in told
    (told,) = api.open_run("out").warnings
    assert "inner_net.py, which defines outer_net:Net" in told


def test_only_the_stages_that_a_network_trains_are_marked_with_it(train):
    run = train("run", "blocks.networks.2={kind: mlp, width: 8, depth: 1}")
    entries = {
        each["name"]: each["trained_with"] for each in json.loads((run / STEP / "manifest.json").read_text())["stages"]
    }
    assert [name for name, software in entries.items() if "outer_net:Net" in software] == ["block-01", "block-03"]


def test_runs_of_earlier_versions_say_nothing_of_their_networks_files(train, edit):
    run = train("run")
    for file in (run / STEP).glob("*.json"):
        text = file.read_text().replace('"outer_net:Net": "', '"of another kind": "')
        file.write_text(text.replace("sha256_of_this", "unknown"))
    edit()
    assert api.open_run("run").warnings == ()


@pytest.mark.parametrize("value", [None, 5, ["x"]])
def test_a_fingerprint_of_another_type_is_damage(train, value):
    run = train("run")
    manifest = json.loads((run / STEP / "manifest.json").read_text())
    manifest["stages"][0]["trained_with"]["outer_net:Net"] = value
    (run / STEP / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="manifest.json of step 12 cannot be read"):
        api.inspect("run")
    assert "manifest.json of step 12 cannot be read" in api.open_run("run").warnings[0]


def test_what_lies_in_no_file_has_no_source(monkeypatch):
    assert source_of("builtins:object") is None
    assert source_of("torch.nn:Linear").module == "torch.nn.modules.linear"


def test_a_changed_network_that_no_longer_fits_is_told_with_its_file_and_both_shapes(train, tmp_path, monkeypatch):
    run = train("run")
    text = NETWORK.replace("Linear(embedding_dim,", "Linear(2 * embedding_dim,").replace(
        "(z)", "(torch.cat([z, z], 1))"
    )
    (tmp_path / "inner_net.py").write_text(text)
    for name in ("inner_net", "outer_net"):
        monkeypatch.delitem(sys.modules, name)
    told = r"snapshot of block 1 at step {}.*: linear.weight is \(10, 10\) in the snapshot and \(10, 20\) in the "
    told += r"network; .*inner_net.py, which defines outer_net:Net .* has changed since"
    with pytest.raises(UserError, match=told.format(12)):
        api.open_run("run")
    shutil.rmtree(run / STEP)
    with pytest.raises(UserError, match=told.format(8)):
        api.resume("run")


def test_a_finished_run_that_is_resumed_tells_of_a_changed_network(train, edit):
    train("run")
    edit()
    told = []
    api.resume("run", watcher=api.Watcher(lambda _: None, told.append, lambda: False, told.append))
    assert [line for line in told if "inner_net.py, which defines outer_net:Net" in line]
