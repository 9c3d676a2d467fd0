"""Jobs on a real cluster of three nodes that asks for a token, through `launch/submit` as a person would."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cut_network import network_to
from run_facts import fingerprints, rounds_of

from noprop_dist.stages import block
from noprop_dist.storage.run_directory import RunDirectory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
NETWORKS = str(ROOT / "tests/faults")
TOKEN = "a-token-of-this-test-" + "0" * 32
SETTINGS = ["--preset", "digits", "--set", "blocks.count=2", "--set", "metrics.port=null", "--set", "engine.workers=2"]


def environment(home, token):
    """Of somebody who has no token but this one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    token_is = {"RAY_AUTH_TOKEN": token} if token else {}
    return {**kept, **token_is, "HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of its jobs server."""
    folder = tmp_path_factory.mktemp("cluster")
    home = {**environment(folder, TOKEN), "PYTHONPATH": os.pathsep.join([NETWORKS, os.environ.get("PYTHONPATH", "")])}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/deploy/token_cluster.py")],
            env={**home, "RAY_AUTH_MODE": "token"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    line = process.stdout.readline().decode().split()
    assert line, (folder / "log").read_text()
    yield line[0]
    process.stdin.close()
    process.wait(timeout=60)


@pytest.fixture
def submit(cluster, tmp_path):
    """Runs launch/submit with an address; the finished process."""

    def run(*words, token=TOKEN, check=True):
        first = ["follow", "stop", "list"]
        command = [words[0], "--address", cluster, *words[1:]] if words[0] in first else ["--address", cluster, *words]
        done = subprocess.run([ROOT / "launch/submit", *command], env=environment(tmp_path, token),
                              capture_output=True, text=True, timeout=240, check=False)  # fmt: skip
        assert not check or done.returncode == 0, done.stderr + done.stdout
        return done

    return run


def test_a_job_is_followed_to_its_end_and_a_restarted_one_goes_on_where_it_finds_the_run(submit, tmp_path):
    words = ["train", "--or-resume", *SETTINGS, "--set", "training.max_steps=64", "--run-dir", str(tmp_path / "run")]
    done = submit("--", *words)
    assert done.stdout.rstrip().endswith(str(tmp_path / "run"))
    assert "of 64" in done.stdout, "progress is shown"
    assert "the run is finished" in submit("--", *words).stdout
    other = submit("--", *words, "--set", "seed=1", check=False)
    assert other.returncode == 2, "its exit code is passed on"
    assert "holds a run whose seed is 0, not 1" in other.stdout


def test_a_job_that_is_stopped_snapshots_first_and_resumes_to_the_same_bits(submit, sequential, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(NETWORKS)
    run, slow = tmp_path / "run", tmp_path / "slow"
    network = f"{{kind: custom, path: 'networks:Slow', arguments: {{seconds: 0.05, while_there: '{slow}'}}}}"
    settings = ["blocks.count=2", "training.max_steps=400", "evaluation.samples=0", f"blocks.network={network}"]
    slow.touch()
    given = [word for each in [*settings, "metrics.port=null", "engine.workers=2"] for word in ("--set", each)]
    job = submit("--detach", "--", "train", *given, "--run-dir", str(run)).stdout.strip()
    deadline = time.monotonic() + 120
    while not {block(1), block(2)} <= {each.stage for each in rounds_of(run)}:
        assert time.monotonic() < deadline, submit("follow", job, check=False).stdout
        time.sleep(0.2)
    submit("stop", job)
    saved = RunDirectory(str(run)).checkpoints.saved_steps()
    for t in (1, 2):
        last = max(each.step for each in rounds_of(run, block(t)))
        assert saved[f"block-{t:02d}"][-1] == last < 400, "it was stopped on the way, and saved where it stood"
    followed = submit("follow", job, check=False)
    assert followed.returncode == 128 + signal.SIGTERM
    assert "SIGTERM: saving snapshots" in followed.stdout
    assert job in submit("list").stdout
    slow.unlink()
    submit("--", "resume", str(run))
    assert fingerprints(run) == fingerprints(sequential(*settings))


def test_following_survives_a_cut_network(cluster, submit, tmp_path):
    train = ["train", *SETTINGS, "--set", "training.max_steps=400", "--run-dir", str(tmp_path / "run")]
    job = submit("--detach", "--", *train).stdout.strip()
    with network_to(cluster) as network:
        command = [ROOT / "launch/submit", "follow", "--address", network.address, job]
        following = subprocess.Popen(command, env=environment(tmp_path, TOKEN), stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, text=True)  # fmt: skip
        first = following.stdout.readline()
        network.cut()
        told = following.stderr.readline()
        network.carries.set()
        rest = following.stdout.read()
        assert following.wait(timeout=60) == 0
    assert "the connection is lost" in told
    assert first + rest == submit("follow", job).stdout, "nothing is missing and nothing is shown twice"


def test_the_command_that_people_type_by_habit_works_too(cluster, tmp_path):
    train = ["python", "-m", "noprop_dist", "train", *SETTINGS, "--set", "training.max_steps=16"]
    done = subprocess.run(
        ["ray", "job", "submit", "--address", cluster, "--working-dir", ".", "--", *train,
         "--run-dir", str(tmp_path / "run")],
        cwd=ROOT, env={**environment(tmp_path, TOKEN), "RAY_AUTH_MODE": "token"}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 of 16" in done.stdout


@pytest.mark.parametrize(
    ("token", "sentence"), [(None, "asks for a token and none was found"), ("wrong" * 8, "does not take the token")]
)
def test_a_missing_or_wrong_token_is_told_in_one_sentence(submit, token, sentence):
    done = submit("list", token=token, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert sentence in line


def test_what_does_not_exist_is_told_in_one_sentence(submit):
    for words in (("follow", "raysubmit_none"), ("stop", "raysubmit_none")):
        done = submit(*words, check=False)
        assert done.returncode == 2
        assert "raysubmit_none: there is no such job" in done.stderr


def test_an_address_where_nobody_answers_is_told_in_one_sentence(tmp_path):
    done = subprocess.run([ROOT / "launch/submit", "list", "--address", "http://127.0.0.1:9"], capture_output=True,
                          text=True, env=environment(tmp_path, TOKEN), timeout=60, check=False)  # fmt: skip
    assert done.returncode == 2
    assert "--address http://127.0.0.1:9: Failed to connect to Ray" in done.stderr
