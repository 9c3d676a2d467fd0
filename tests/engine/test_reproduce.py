"""`reproduce`: every row of the paper's table, trained and measured; what is done is skipped."""

import json
import time

import pytest

from noprop_dist.cli.app import main

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.slow]

TINY = ["data.name=digits", "blocks.count=2", "blocks.network={kind: mlp, width: 16, depth: 1}", "training.max_steps=8",
        "engine.workers=1", "evaluation.samples=0"]  # fmt: skip


def reproduce(out, *settings):
    """The exit code of the command."""
    given = [word for each in [*TINY, *settings] for word in ("--set", each)]
    with pytest.raises(SystemExit) as end:
        main(["reproduce", "mnist", "--seeds", "1", "--out", str(out), *given])
    return end.value.code


def test_the_whole_table_is_filled_and_a_second_time_nothing_is_trained(tmp_path, capsys):
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
    begun = time.monotonic()
    assert reproduce(tmp_path / "out") == 0
    assert time.monotonic() - begun < 10
    assert (tmp_path / "out/table.md").read_text() == table
    assert reproduce(tmp_path / "out", "training.max_steps=9") == 2
    assert "holds a run whose training.max_steps is" in capsys.readouterr().err


def test_data_that_the_paper_has_no_table_of_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["reproduce", "digits"])
    assert "allowed are mnist, cifar10, cifar100" in capsys.readouterr().err
