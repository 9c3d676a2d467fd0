"""Blocks trained in different places become one network, if they belong together."""

import pytest

from noprop_dist.errors import UserError
from noprop_dist.records import RoundDone
from noprop_dist.stages import CLASSIFIER
from noprop_dist.storage.local_files import LocalFiles
from noprop_dist.storage.merge import merge_runs
from noprop_dist.storage.run_directory import RunDirectory


def fingerprints(directory):
    return [entry.sha256 for entry in directory.checkpoints.manifest().stages]


@pytest.fixture
def parts(copied_run):
    return [
        copied_run("blocks.only=1-2", name="first"),
        copied_run("blocks.only=3", "engine.round_steps=5", name="second"),
    ]


def test_merged_parts_are_the_network_that_one_run_would_have_trained(copied_run, parts, tmp_path):
    out = RunDirectory(str(tmp_path / "out"))
    assert merge_runs(out, parts) == []
    assert fingerprints(out) == fingerprints(copied_run(name="whole"))
    assert out.config().blocks.only is None
    rounds = [record for record in out.metrics() if isinstance(record, RoundDone)]
    assert sum(record.steps for record in rounds if record.stage == CLASSIFIER) == 12, (
        "the classifier, which every part trains, is counted once"
    )
    assert out.checkpoints.manifest().merged_from["block-03"] == str(parts[1])


def test_blocks_that_two_parts_hold_alike_are_told_with_whose_are_taken(copied_run, tmp_path):
    twins = [copied_run(name=name) for name in ("first", "second")]
    (told,) = merge_runs(RunDirectory(str(tmp_path / "out")), twins)
    assert told == f"{twins[0]} and {twins[1]} hold the same weights of block(s) 1, 2, 3; the former's are taken"


def test_what_disagrees_is_named(copied_run, parts, tmp_path):
    out = RunDirectory(str(tmp_path / "out"))
    other = copied_run("blocks.only=3", "seed=1", "training.learning_rate=0.01", name="other")
    with pytest.raises(UserError, match=r"seed is 0 in .*first and 1 in .*other; training.learning_rate is 0.001 in"):
        merge_runs(out, [parts[0], other])
    shorter = copied_run("blocks.only=3", "training.max_steps=11", name="shorter")
    with pytest.raises(UserError, match="training.max_steps is 12 in .*first and 11 in .*shorter"):
        merge_runs(out, [parts[0], shorter])
    elsewhere = copied_run("blocks.only=3", "engine.device=cpu", name="elsewhere")
    with pytest.raises(UserError, match="engine.device is 'auto' in .*first and 'cpu' in .*elsewhere"):
        merge_runs(out, [parts[0], elsewhere])
    assert not out.holds_run


def test_missing_blocks_and_a_used_directory_are_refused(parts, tmp_path):
    with pytest.raises(UserError, match=r"block\(s\) 3 are in none of them"):
        merge_runs(RunDirectory(str(tmp_path / "out")), parts[:1])
    with pytest.raises(UserError, match="already holds a run"):
        merge_runs(parts[0], parts)


@pytest.mark.parametrize("writes", range(1, 16))
def test_an_interrupted_merge_can_be_repeated(parts, tmp_path, monkeypatch, writes):
    write, left = LocalFiles.write, iter(range(writes))

    def killed(files, name, content):
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(files, name, content)

    out = RunDirectory(str(tmp_path / "out"))
    monkeypatch.setattr(LocalFiles, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        merge_runs(out, parts)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"holds a part of a merged run; the merge was interrupted|holds no run"):
        RunDirectory(str(out)).config()
    with pytest.raises(UserError, match="a merge into it was interrupted; repeat it, or give another folder"):
        RunDirectory(str(out)).check_unused()
    merge_runs(RunDirectory(str(out)), parts)
    assert len(fingerprints(out)) == 4
    rounds = [record for record in RunDirectory(str(out)).metrics() if isinstance(record, RoundDone)]
    assert sum(record.steps for record in rounds if record.stage == CLASSIFIER) == 12
