"""engine.profile writes a trace of one block's steps into the run directory, and changes nothing else."""

import gzip
import json
from pathlib import Path

import pytest
from torch.profiler import profile

from noprop_dist import api
from noprop_dist.engines.ray.workers import BlockWorker
from noprop_dist.errors import UserError
from noprop_dist.records import News
from noprop_dist.stages import block
from noprop_dist.training.batch_stream import RoundKey
from noprop_dist.training.messages import Accompanied, RoundReport
from noprop_dist.training.setup import prepare

FEW = ["engine.round_steps=2", "evaluation.samples=0", "engine.profile.block=2"]


def steps_in(content):
    """The steps that a trace shows, and how many operations of torch it has."""
    events = json.loads(gzip.decompress(content))["traceEvents"]
    steps = sorted({event["name"] for event in events if event.get("name", "").startswith("step ")})
    return steps, sum(event.get("cat") == "cpu_op" for event in events)


def prints(directory):
    return [entry.sha256 for entry in directory.checkpoints.manifest().stages]


def test_the_trace_has_the_steps_of_the_block_and_no_bit_changes(small_run):
    plain, run = small_run(name="plain"), small_run(*FEW, "engine.profile.steps=4")
    assert prints(run) == prints(plain)
    steps, operations = steps_in(Path(f"{run}/profile/block-02.json.gz").read_bytes())
    assert steps == [f"step {step} of block 2" for step in (6, 7, 8, 9)]
    assert operations > 40
    told = [record.text for record in run.metrics() if isinstance(record, News)]
    assert told == ["block 2: the profile of steps 6 to 9 is in profile/block-02.json.gz"]


def test_a_run_with_few_steps_is_profiled_to_its_end(small_run):
    run = small_run(*FEW)
    steps, _ = steps_in(Path(f"{run}/profile/block-02.json.gz").read_bytes())
    assert len(steps) == 12, "all that there are"


def test_a_worker_sends_the_trace_with_its_answer(small_config):
    setup, data = prepare(small_config(*FEW, "engine.profile.steps=2"))
    worker = BlockWorker(setup, data.train.inputs, data.train.labels)
    for stage in (block(1), block(2)):
        worker.hold(stage, None)
        assert isinstance(worker.train(RoundKey(stage, 0, 7)), RoundReport)
    assert isinstance(worker.train(RoundKey(block(1), 7, 2)), RoundReport)
    answer = worker.train(RoundKey(block(2), 7, 2))
    assert isinstance(answer, Accompanied)
    assert answer.answer.steps == 2
    assert list(answer.left.files) == ["profile/block-02.json.gz"]


@pytest.mark.parametrize("fails", ["start", "stop", "export_chrome_trace"])
def test_a_block_that_cannot_be_profiled_is_trained_all_the_same(small_run, monkeypatch, fails):
    def fail(*_):
        raise RuntimeError("no profiler here")

    plain = small_run(name="plain")
    monkeypatch.setattr(profile, fails, fail)
    run = small_run(*FEW, name="run")
    assert prints(run) == prints(plain)
    assert [r.text for r in run.metrics() if isinstance(r, News)] == ["block 2: is not profiled: no profiler here"]
    assert not Path(f"{run}/profile").exists()


def test_a_resume_may_profile_and_a_block_that_is_not_there_is_refused(small_run, small_config):
    run = small_run("evaluation.samples=0")
    api.resume(run.root, ["training.max_steps=14", "engine.profile={block: 3, steps: 1}"])
    assert steps_in(Path(f"{run}/profile/block-03.json.gz").read_bytes())[0] == ["step 13 of block 3"]
    with pytest.raises(UserError, match=r"engine.profile.block=4: there is no such block; blocks are 1..3"):
        small_config("engine.profile.block=4")
    with pytest.raises(UserError, match=r"engine.profile.block=1: there is no such block; blocks are those of"):
        small_config("engine.profile.block=1", "blocks.only=2-3")
    with pytest.raises(UserError, match="engine.profile.block: must be given"):
        small_config("engine.profile={steps: 3}")
