"""The command line on a Ray that it starts itself, and on one that is already there."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import ray
from run_facts import records_of, rounds_of

from noprop_dist.records import StageFailed
from noprop_dist.stages import block
from noprop_dist.storage.run_directory import RunDirectory

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


def noprop(*arguments, cwd, code=0):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "noprop_dist", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow
def test_train_starts_a_ray_of_its_own_with_a_users_network_and_ends_it(tmp_path):
    (tmp_path / "mine.py").write_text(NETWORK)
    network = ["--set", "blocks.network={kind: custom, path: 'mine:Net'}"]
    done = noprop("train", *SMALL, *network, "--run-dir", "run", cwd=tmp_path)
    assert done.stdout.strip() == str(tmp_path / "run")
    assert "12 of 12" in done.stderr
    assert "test" in done.stderr
    whole = json.loads(noprop("inspect", "run", "--json", cwd=tmp_path).stdout)
    assert [block["step"] for block in whole["blocks"]] == [12, 12, 12]
    assert {each.KIND for each in RunDirectory(str(tmp_path / "run")).metrics()} == {
        "worker",
        "round",
        "snapshot",
        "evaluation",
        "objective",
        "news",
    }


@pytest.mark.slow
def test_files_of_the_working_directory_take_no_modules_place_in_workers(tmp_path):
    for module in ("numpy", "secrets", "yaml", "torch"):
        (tmp_path / f"{module}.py").write_text(f"raise SystemExit('{module} of the working directory was imported')")
    (tmp_path / "mine.py").write_text(NETWORK)
    network = ["--set", "blocks.network={kind: custom, path: 'mine:Net'}"]
    assert "12 of 12" in noprop("train", *SMALL, *network, "--run-dir", "run", cwd=tmp_path).stderr


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_train_joins_a_running_cluster_by_address(tmp_path):
    address = ray.get_runtime_context().gcs_address
    noprop("train", *SMALL, "--address", address, "--run-dir", "run", cwd=tmp_path)
    plan = noprop("plan", *SMALL, "--address", address, cwd=tmp_path).stdout
    assert "3 block(s) on 2 worker(s): 2 cores available" in plan
    assert ray.is_initialized()


@pytest.mark.slow
def test_a_block_that_fails_is_told_with_exit_code_1(tmp_path):
    failing = NETWORK.replace(
        "return", "if self.training:\n            raise OverflowError('the soup boiled over')\n        return"
    )
    (tmp_path / "mine.py").write_text(failing)
    network = ["--set", "blocks.networks.2={kind: custom, path: 'mine:Net'}"]
    done = noprop("train", *SMALL, *network, "--run-dir", "run", cwd=tmp_path, code=1)
    assert "not trained to the end: block 2 (OverflowError: the soup boiled over" in done.stderr
    assert "Traceback" not in done.stderr
    (failure,) = records_of(tmp_path / "run", StageFailed)
    assert failure.stage == block(2)
    assert "Traceback" in failure.trace


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_every_block_be_saved_where_it_stands(tmp_path, number):
    """Ray's own handler, which ends a process at once, had taken the place of ours."""
    run = RunDirectory(str(tmp_path / "run"))
    settings = ["blocks.count=2", "training.max_steps=100000", "evaluation.samples=0", "metrics.port=null"]
    given = [word for each in settings for word in ("--set", each)]
    train = subprocess.Popen([sys.executable, "-m", "noprop_dist", "train", *given, "--run-dir", str(run)],
                             stderr=subprocess.PIPE, text=True)  # fmt: skip
    deadline = time.monotonic() + 120
    while not {block(1), block(2)} <= {each.stage for each in rounds_of(run)}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(train.pid, number)
    _, said = train.communicate(timeout=60)
    assert train.returncode == 128 + number, said
    assert f"{number.name}: saving snapshots" in said
    reached = {each.stage.file(2): each.step for each in rounds_of(run)}
    assert {name: steps[-1] for name, steps in run.checkpoints.saved_steps().items()} == reached
