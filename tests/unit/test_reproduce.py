"""`reproduce`: every row of the paper's table, trained and measured; what is done is skipped."""

import json

import pytest
from end_to_end_run import trained_end_to_end

from noprop_dist import api
from noprop_dist.cli.app import main
from noprop_dist.storage.run_directory import RunDirectory

TINY = ["data.name=digits", "blocks.count=2", "blocks.network={kind: mlp, width: 16, depth: 1}", "training.max_steps=8",
        "engine.workers=1", "evaluation.samples=0"]  # fmt: skip


@pytest.fixture
def trained(monkeypatch):
    """The run directories that are trained, without Ray."""
    folders, train = [], api.train

    def train_here(config, folder, **further):
        folders.append(folder)
        if config.method == "backprop":
            return trained_end_to_end(config, folder)
        engine = config.engine.model_copy(update={"kind": "sequential"})
        return train(config.model_copy(update={"engine": engine}), folder, **further)

    monkeypatch.setattr(api, "train", train_here)
    return folders


def reproduce(out, *settings):
    """The exit code of the command."""
    given = [word for each in [*TINY, *settings] for word in ("--set", each)]
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "mnist", "--seeds", "1", "--out", str(out), *given])
    return end.value.code


@pytest.mark.slow
def test_the_whole_table_is_filled_and_a_second_time_nothing_is_trained(trained, tmp_path, capsys):
    assert reproduce(tmp_path / "out") == 0
    rows = json.loads((tmp_path / "out/table.json").read_text())["rows"]
    assert [(row["method"], row["embedding"]) for row in rows] == [
        *(("backprop", "onehot"), ("backprop", "prototype")),
        *(("noprop", "onehot"), ("noprop", "learned"), ("noprop", "prototype")),
    ]
    assert all(len(row["stochastic"]) == 5 and row["peak_memory_bytes"] > 2**26 for row in rows)
    assert all(0 < row["training_seconds"] < 60 for row in rows)
    table = (tmp_path / "out/table.md").read_text()
    assert table.count("|") == 7 * 9
    assert "99.54 ± 0.04" in capsys.readouterr().out, "the paper's figure stands beside ours"
    assert len(trained) == 5
    assert reproduce(tmp_path / "out") == 0
    assert len(trained) == 5
    assert (tmp_path / "out/table.md").read_text() == table
    assert reproduce(tmp_path / "out", "training.max_steps=9") == 2
    assert "holds a run whose training.max_steps is" in capsys.readouterr().err


def test_data_that_the_paper_has_no_table_of_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["reproduce", "digits"])
    assert "allowed are mnist, cifar10, cifar100" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"seed": 0, "stochastic": 3}', "{"])
def test_figures_that_cannot_be_read_are_told_with_their_file(tmp_path, monkeypatch, capsys, content):
    monkeypatch.setattr(RunDirectory, "holds_run", True)
    monkeypatch.setattr(api, "check_same_run", lambda *_: None)
    row = tmp_path / "backprop-onehot-seed0"
    row.mkdir()
    (row / "reproduced.json").write_text(content)
    assert reproduce(tmp_path) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"noprop-dist: {row}: reproduced.json cannot be read: ")
    assert said.endswith("; without that file the run is measured anew")
