"""The start of a run on Ray: who begins when, and what is told of it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from noprop_dist.bench.idle import NoopWorker, idle_records
from noprop_dist.records import WorkerLost, WorkerReady
from noprop_dist.storage.run_directory import RunDirectory

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


@pytest.mark.timeout(180)
def test_standard_output_has_the_run_alone_where_a_worker_dies(tmp_path):
    """Ray prints there what it knows of lost processes."""
    settings = ["training.max_steps=3000", "blocks.count=1", "evaluation.samples=0", "metrics.port=null"]
    options = [part for each in settings for part in ("--set", each)]
    run = tmp_path / "run"
    command = [sys.executable, "-m", "noprop_dist", "train", "--run-dir", str(run), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        try:
            until = time.monotonic() + 60
            while not (workers := [each for each in ready(run) if each.worker == "block worker 1"]):
                assert time.monotonic() < until
                time.sleep(0.2)
            os.kill(workers[0].pid, signal.SIGKILL)
            out, told = driver.communicate(timeout=110)
        finally:
            driver.kill()
    assert driver.returncode == 0, told
    assert any(isinstance(each, WorkerLost) for each in RunDirectory(str(run)).metrics())
    assert out.split() == [str(run)]


def ready(run):
    return [each for each in RunDirectory(str(run)).metrics() if isinstance(each, WorkerReady)] if run.exists() else []
