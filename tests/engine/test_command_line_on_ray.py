"""The command line on a Ray that it starts itself, and on one that is already there."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from run_facts import records_of, rounds_of

from noprop_dist.records import News, StageFailed
from noprop_dist.stages import block
from noprop_dist.storage.run_directory import RunDirectory

pytestmark = pytest.mark.slow

SMALL = ["--set", "blocks.count=3", "--set", "training.max_steps=12", "--set", "metrics.port=0"]

NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.layer = nn.Linear(embedding_dim, classes)

    def forward(self, x, z):
        return self.layer(z)
"""
FAILING = NETWORK.replace(
    "return", "if self.training:\n            raise OverflowError('the soup boiled over')\n        return"
)

TALKING = """
import logging
import warnings

from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.layer = nn.Linear(embedding_dim, classes)
        self.forwards = 0

    def forward(self, x, z):
        self.forwards += 1
        if self.training and self.forwards == 1:
            print("printed")
            logging.getLogger("mine").warning("logged")
            warnings.warn("warned", stacklevel=1)
        if not self.training and self.forwards == 1:
            print("measured")
        if self.training:
            print("again and again")
        return self.layer(z)
"""


def noprop(*arguments, cwd, code=0):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "noprop_dist", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def address(ray_here):
    return ray.get_runtime_context().gcs_address


def test_train_starts_a_ray_of_its_own_with_a_users_network_and_ends_it(tmp_path):
    """Other files of the working directory take no module's place, not even in workers."""
    (tmp_path / "mine.py").write_text(NETWORK)
    for module in ("numpy", "secrets", "yaml", "torch"):
        (tmp_path / f"{module}.py").write_text(f"raise SystemExit('{module} of the working directory was imported')")
    network = ["--set", "blocks.network={kind: custom, path: 'mine:Net'}"]
    done = noprop("train", *SMALL, *network, "--run-dir", "run", cwd=tmp_path)
    assert done.stdout.strip() == str(tmp_path / "run")
    assert "12 of 12" in done.stderr
    figures = r"step 12: accuracy validation \(mean\) \S+%, test \(mean\) \S+%, test \(stochastic\) \S+%"
    assert re.search(figures, done.stderr)
    whole = json.loads(noprop("inspect", "run", "--json", cwd=tmp_path).stdout)
    assert [each["step"] for each in whole["blocks"]] == [12, 12, 12]
    kinds = {each.KIND for each in RunDirectory(str(tmp_path / "run")).metrics()}
    assert kinds == {"phase", "worker", "round", "snapshot", "checkpoint", "evaluation", "objective", "news", "end"}


def test_what_a_network_says_and_a_profile_come_back_from_the_workers(tmp_path):
    (tmp_path / "mine.py").write_text(TALKING)
    network = ["--set", "blocks.networks.2={kind: custom, path: 'mine:Net'}", "--set", "training.max_steps=60"]
    profile = ["--set", "engine.profile={block: 1, steps: 3}"]
    noprop("train", *SMALL, *network, *profile, "--run-dir", "run", cwd=tmp_path)
    said = [record.text for record in records_of(tmp_path / "run", News)]
    of_block = [text.removeprefix("block 2: ") for text in said if text.startswith("block 2: ")]
    assert {"printed", "logged"} < set(of_block)
    assert [text for text in of_block if "UserWarning: warned" in text]
    assert "evaluator: measured" in said
    assert 15 <= of_block.count("again and again") < 30
    assert [text for text in of_block if text.startswith("says more than is kept")]
    assert "block 1: the profile of steps 6 to 8 is in profile/block-01.json.gz" in said
    assert (tmp_path / "run/profile/block-01.json.gz").stat().st_size > 0
    assert not [text for text in said if text.startswith(("block 3", "classifier"))], "others say nothing"


def test_on_a_running_cluster_a_block_that_fails_is_told_with_exit_code_1(address, tmp_path):
    (tmp_path / "mine.py").write_text(FAILING)
    where = ["--address", address]
    network = ["--set", "blocks.networks.2={kind: custom, path: 'mine:Net'}"]
    done = noprop("train", *SMALL, *where, *network, "--run-dir", "run", cwd=tmp_path, code=1)
    assert "not trained to the end: block 2 (OverflowError: the soup boiled over" in done.stderr
    assert "Traceback" not in done.stderr
    (failure,) = records_of(tmp_path / "run", StageFailed)
    assert failure.stage == block(2)
    assert "Traceback" in failure.trace
    saved = RunDirectory(str(tmp_path / "run")).checkpoints.saved_steps()
    assert {name: steps[-1] for name, steps in saved.items()} == {"block-01": 12, "block-03": 12, "classifier": 12}
    plan = noprop("plan", *SMALL, *where, cwd=tmp_path).stdout
    assert "3 block(s) on 2 worker(s): 2 cores available" in plan


def test_a_signal_lets_every_block_be_saved_where_it_stands(address, tmp_path):
    run = RunDirectory(str(tmp_path / "run"))
    settings = ["blocks.count=2", "training.max_steps=100000", "evaluation.samples=0", "metrics.port=null"]
    given = [word for each in settings for word in ("--set", each)]
    command = [sys.executable, "-m", "noprop_dist", "train", *given, "--run-dir", str(run), "--address", address]
    train = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not {block(1), block(2)} <= {each.stage for each in rounds_of(run)}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(train.pid, signal.SIGHUP)
    _, said = train.communicate(timeout=60)
    assert train.returncode == 128 + signal.SIGHUP, said
    assert "SIGHUP: saving snapshots" in said
    reached = {each.stage.file(2): each.step for each in rounds_of(run)}
    assert {name: steps[-1] for name, steps in run.checkpoints.saved_steps().items()} == reached


CONNECT = """
import signal, sys
from noprop_dist.api.stop_signals import stop_signals
from noprop_dist.engines.ray.cluster import ray_session
asking = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
with stop_signals(print) as request:
    ours = [signal.getsignal(each) for each in asking]
    with ray_session(sys.argv[1]):
        assert [signal.getsignal(each) for each in asking] == ours
"""


def test_signals_are_still_ours_once_ray_is_connected(address):
    """Ray's own handler, which ends a process at once, had taken the place of ours."""
    subprocess.run([sys.executable, "-c", CONNECT, address], check=True, timeout=100)


def children(pid):
    """(pid, command) of all processes below one, from Linux's own lists: each of its threads has one."""
    lists = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/children")]
    for child in " ".join(lists).split():
        yield int(child), Path(f"/proc/{child}/cmdline").read_text()
        yield from children(child)


@contextmanager
def training_on_its_own_ray(folder, port):
    """The driver of a run in `folder/run`, once that has a snapshot."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    settings = ["--set", "training.max_steps=100000", "--set", "blocks.count=1", "--set", f"metrics.port={port}"]
    with subprocess.Popen(
        [sys.executable, "-m", "noprop_dist", "train", *settings, "--run-dir", "run"],
        cwd=folder, env=environment, stderr=subprocess.PIPE, text=True,
    ) as driver:  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while not (folder / "run" / "checkpoints").exists():
                assert time.monotonic() < deadline
                time.sleep(0.5)
            yield driver
        finally:
            driver.kill()


def test_a_signal_to_a_run_with_a_ray_of_its_own_is_not_answered_by_ray(tmp_path):
    """Ray starts in another thread. Its own handler for SIGTERM aborts the process after three seconds."""
    with training_on_its_own_ray(tmp_path, port="null") as driver:
        driver.send_signal(signal.SIGTERM)
        told = driver.communicate(timeout=60)[1]
    assert driver.returncode == 128 + signal.SIGTERM
    assert "stopped and saved" in told
    assert "SIGTERM received at time" not in told


def test_a_run_whose_own_ray_has_died_ends_with_the_command_that_goes_on(tmp_path):
    with training_on_its_own_ray(tmp_path, port="0") as driver:
        (raylet,) = (pid for pid, command in children(driver.pid) if "raylet/raylet" in command.split("\0")[0])
        os.kill(raylet, signal.SIGKILL)
        told = driver.communicate(timeout=60)[1]
    assert driver.returncode == 1
    assert "the Ray cluster, or this process's node of it, is gone" in told
    assert f"`noprop-dist resume {tmp_path}/run` continues the run" in told
    assert "Traceback" not in told
