"""The start of a run on Ray: who begins when, and what is told of it."""

import subprocess
import sys
import time

import pytest

from noprop_dist.bench.idle import NoopWorker, idle_records
from noprop_dist.records import WorkerReady

pytestmark = pytest.mark.slow


@pytest.fixture
def slow_to_start():
    """A class that is sent to its processes by value."""

    class SlowToStart(NoopWorker):
        def __init__(self, *_):
            super().__init__()
            time.sleep(3)

    return SlowToStart


@pytest.mark.usefixtures("ray_here")
def test_classifier_worker_and_evaluator_are_started_once_a_block_worker_is_ready(slow_to_start):
    records = idle_records(2, 16, 1, slow_to_start, ["evaluation.samples=8"])
    ready = {each.worker: each.time for each in records if isinstance(each, WorkerReady)}
    assert ready["block worker 1"] < ready["classifier worker"]


@pytest.mark.timeout(120)
def test_a_timeline_has_every_process_until_the_first_block_step(tmp_path):
    settings = ["training.max_steps=8", "blocks.count=2", "checkpoint.every_steps=8"]
    options = [part for each in settings for part in ("--set", each)]
    command = [sys.executable, "-m", "noprop_dist", "train", "--timeline", "--run-dir", str(tmp_path / "run"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
    told = done.stderr.partition("seconds from the command to the first block-step")[2]
    for row in ("driver", "start of Ray", "coordinator", "block worker 1", "first block-step"):
        assert row in told
    assert done.stdout.split() == [str(tmp_path / "run")]
