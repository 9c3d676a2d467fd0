"""What a real jobs server cannot be made to do at will: connections that break, jobs that fail, refusals."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import pytest
from ray._private.runtime_env import packaging
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus
from typer.testing import CliRunner

from noprop_dist.cli.app import app
from noprop_dist.engines.ray import jobs
from noprop_dist.engines.ray.package import package_of
from noprop_dist.errors import TrainingError, UserError

ROOT = Path(__file__).parents[2]


class Server:
    """A jobs server whose job writes two parts, and whose connection breaks after the first, once."""

    def __init__(self, address):
        self.address = address
        self.status = JobStatus.RUNNING
        self.ends_as = JobStatus.SUCCEEDED
        self.exit_code = 0
        self.breaks = True
        self.submitted = None

    def submit_job(self, entrypoint, runtime_env):
        self.submitted = (entrypoint, runtime_env)
        return "job-1"

    def get_job_status(self, job):
        if job != "job-1":
            raise RuntimeError("Job job-2 does not exist.")
        return self.status

    def get_job_info(self, _):
        return SimpleNamespace(driver_exit_code=self.exit_code, message="the node is gone")

    def stop_job(self, job):
        if job != "job-1":
            raise RuntimeError("no such job")
        self.status, self.ends_as = JobStatus.STOPPED, JobStatus.STOPPED

    def list_jobs(self):
        ran = {"submission_id": "job-1", "status": self.status, "entrypoint": "python -m noprop_dist train"}
        return [SimpleNamespace(start_time=1, **ran)]

    async def tail_job_logs(self, _):
        yield "first\n"
        if self.breaks:
            self.breaks = False
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
        yield "second\n"
        self.status = self.ends_as


@pytest.fixture
def server(monkeypatch):
    made = Server("http://cluster:8265")
    monkeypatch.setattr(jobs, "JobSubmissionClient", lambda _: made)
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.0)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    return made


def run(*words):
    return CliRunner().invoke(app, ["job", *words], standalone_mode=False)


def test_after_a_broken_connection_a_log_goes_on_where_it_was(server):
    done = run("follow", "--address", "cluster:8265", "job-1")
    assert done.exit_code == 0
    assert done.stdout == "first\nsecond\n", "nothing is shown twice"


def test_a_connection_that_breaks_after_a_long_time_is_tried_for_as_long_as_any_other(server, monkeypatch):
    monkeypatch.setattr(jobs, "LOST_SECONDS", 0.05)
    whole = server.tail_job_logs

    async def held_for_longer(job):
        async for part in whole(job):
            yield part
            await asyncio.sleep(0.1)

    server.tail_job_logs = held_for_longer
    done = run("follow", "--address", "cluster:8265", "job-1")
    assert done.exit_code == 0
    assert done.stdout == "first\nsecond\n"
    assert "http://cluster:8265: the connection is lost (WebSocket" in done.stderr.replace("\n", " ")


def test_a_network_that_swallows_everything_is_noticed_and_waited_for(server, monkeypatch):
    monkeypatch.setattr(jobs, "SILENT_SECONDS", 0.02)
    monkeypatch.setattr(jobs, "ANSWER_SECONDS", 0.05)
    whole, answers = server.tail_job_logs, iter(["as ever", "swallowed", "swallowed"])
    status = server.get_job_status

    async def stays_open(job):
        if server.breaks:
            server.breaks = False
            yield "first\n"
            await asyncio.sleep(60)
        async for part in whole(job):
            yield part

    def get_job_status(job):
        if next(answers, "as ever") == "swallowed":
            time.sleep(0.2)
        return status(job)

    server.tail_job_logs, server.get_job_status = stays_open, get_job_status
    done = run("follow", "--address", "cluster:8265", "job-1")
    assert (done.exit_code, done.stdout) == (0, "first\nsecond\n")
    assert "no answer within 0 s" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "No space left on device")])
def test_an_output_that_cannot_be_written_is_no_lost_connection(server, error):
    def full(_):
        raise error

    with pytest.raises(type(error)) as raised:
        jobs.Jobs("cluster:8265").follow("job-1", full, pytest.fail)
    assert raised.value is error


def test_what_a_job_writes_cannot_steer_the_terminal(server):
    async def hostile(_):
        yield "\x1b[2Jgone\n"
        server.status = server.ends_as

    server.tail_job_logs = hostile
    assert run("follow", "--address", "cluster:8265", "job-1").stdout == "\\x1b[2Jgone\n"


def test_the_exit_code_is_the_jobs(server):
    server.exit_code = 2
    assert run("follow", "--address", "cluster:8265", "job-1").exit_code == 2
    server.status, server.ends_as, server.exit_code = JobStatus.RUNNING, JobStatus.STOPPED, None
    assert run("follow", "--address", "cluster:8265", "job-1").exit_code == 143


def test_a_job_that_failed_without_an_exit_code_tells_why(server):
    server.exit_code, server.ends_as = None, JobStatus.FAILED
    with pytest.raises(TrainingError, match="job-1 failed: the node is gone"):
        jobs.Jobs("cluster:8265").follow("job-1", print, print)


def test_a_server_that_stays_away_is_given_up(server, monkeypatch):
    monkeypatch.setattr(jobs, "LOST_SECONDS", -1.0)
    with pytest.raises(TrainingError, match="no answer for -1 s, job-1 may go on"):
        jobs.Jobs("cluster:8265").follow("job-1", print, print)


def test_what_is_sent_is_the_folder_without_secrets_and_a_time_to_snapshot(server):
    done = run("submit", "--address", "cluster:8265", "--working-dir", str(ROOT), "--install", "--detach",
               "--", "train", "--set", "a=b c")  # fmt: skip
    assert done.exit_code == 0, done.exception
    assert done.stdout.splitlines()[-1] == "job-1"
    entrypoint, environment = server.submitted
    assert entrypoint == "python -m noprop_dist train --set 'a=b c'"
    assert environment["working_dir"] == str(ROOT)
    assert {"deploy/secrets", "/data", "/runs"} <= {*environment["excludes"]}
    assert environment["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
    assert any(each.startswith("torch>=") for each in environment["pip"])
    assert any(each.startswith("torch==") for each in environment["pip"])
    assert not any(each.startswith("ray") for each in environment["pip"])


@pytest.fixture
def project(tmp_path):
    """A folder with a package, data, and a run directory that has a name of its own."""
    files = {
        "pyproject.toml": 10, "noprop_dist/data/load.py": 20, "data/cifar-100-python/train": 30_000_000,
        "runs/one/config.yaml": 40, "results [1]/first/config.yaml": 50,
        "results [1]/first/checkpoints/step-00000001/block-01.safetensors": 60_000_000,
        "results [1]/notes.txt": 70, "ignored/big": 80_000_000,
    }  # fmt: skip
    for name, size in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    (tmp_path / ".gitignore").write_text("ignored/\n")
    return tmp_path


def test_data_and_runs_stay_here_and_so_does_what_git_ignores(project):
    package = package_of(project)
    expected = {".gitignore", "pyproject.toml", "noprop_dist/data/load.py", "results [1]/notes.txt"}
    assert ({*package.sizes}, package.told) == (expected, None)
    packed = project.parent / "packed.zip"
    packaging.create_package(str(project), packed, include_gitignore=True, excludes=list(package.excludes))
    assert {name for name in ZipFile(packed).namelist() if not name.endswith("/")} == expected


def test_what_is_large_is_told_before_it_is_sent(server, project):
    for name, size in {"images/train/a": 300_000_000, "images/train/b": 200_000_000, "weights": 5_000_000}.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        with (project / name).open("wb") as file:
            file.truncate(size)
    server.submit_job = lambda **_: pytest.fail("told") if not said else "job-1"
    said = []
    assert jobs.Jobs("cluster:8265").submit(["train"], project, False, said.append) == "job-1"
    (line,) = said
    assert line.startswith(f"{project}: 505 MB are packed and sent, the largest are images/train (500 MB), weights (5")


def test_a_job_that_comes_before_the_heads_agent_is_submitted_again(server):
    refusals, submit = iter([RuntimeError("status code 500: No available agent to submit job, please")] * 2), []

    def not_yet(**asked):
        submit.append(asked)
        if error := next(refusals, None):
            raise error
        return "job-1"

    server.submit_job = not_yet
    done = run("submit", "--address", "cluster:8265", "--detach", "--", "train")
    assert (done.exit_code, len(submit)) == (0, 3)
    assert done.stderr.replace("\n", " ").count("the head's agent does not answer yet; trying again for 120 s") == 1
    server.submit_job = lambda **_: (_ for _ in ()).throw(RuntimeError("status code 500: the runtime env is broken"))
    refused = run("submit", "--address", "cluster:8265", "--detach", "--", "train")
    assert "the runtime env is broken" in str(refused.exception), "any other refusal is told at once"


@pytest.mark.parametrize(
    "answer",
    [
        RuntimeError("Job job-1 does not exist."),
        AuthenticationError("Authentication required: x"),
        RuntimeError("status code 500: No available agent"),
        ConnectionError("Failed to connect to Ray"),
    ],
)
def test_following_waits_for_a_head_that_starts_anew_whatever_it_answers_meanwhile(server, answer):
    answers, status = iter([None, answer, answer]), server.get_job_status

    def get_job_status(job):
        if error := next(answers, None):
            raise error
        return status(job)

    server.get_job_status = get_job_status
    done = run("follow", "--address", "cluster:8265", "job-1")
    assert (done.exit_code, done.stdout) == (0, "first\nsecond\n")


def test_a_head_that_is_lost_just_before_the_exit_code_is_asked_for_is_waited_for(server):
    errors, info = iter([ConnectionError("Failed to connect to Ray")]), server.get_job_info

    def get_job_info(job):
        if error := next(errors, None):
            raise error
        return info(job)

    server.get_job_info = get_job_info
    done = run("follow", "--address", "cluster:8265", "job-1")
    assert (done.exit_code, done.stdout) == (0, "first\nsecond\n")


def test_a_head_that_knows_the_job_no_more_is_told_after_two_minutes_and_what_to_do(server, monkeypatch):
    monkeypatch.setattr(jobs, "LOST_SECONDS", 0.05)
    status = server.get_job_status
    server.get_job_status = lambda job: status("job-2" if server.breaks is False else job)
    with pytest.raises(TrainingError, match="no such job at http://cluster:8265, for 0 s now, .* resume` goes on"):
        jobs.Jobs("cluster:8265").follow("job-1", print, print)


def test_a_list_fits_the_terminal_and_is_whole_in_a_pipe(server, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    long = "python -m noprop_dist train --set " + "a" * 100
    server.list_jobs = lambda: [
        SimpleNamespace(start_time=1, submission_id="raysubmit_keUKhJ9WXk46hy1X", status=server.status, entrypoint=long)
    ]
    assert run("list", "--address", "cluster:8265").stdout.split() == [
        "raysubmit_keUKhJ9WXk46hy1X", "RUNNING", "train", "--set", "a" * 100,
    ]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    (line,) = run("list", "--address", "cluster:8265").stdout.splitlines()
    assert (len(line), line[-1]) == (80, "…")


def test_nodes_install_what_the_folder_depends_on_as_it_is_pinned(tmp_path):
    packages, pins = tmp_path / "pyproject.toml", tmp_path / "constraints.txt"
    packages.write_text('[project]\ndependencies = ["Py_YAML>=6", "ray[default]", "numpy"]\n')
    assert jobs.packages_of(tmp_path) == ["Py_YAML>=6", "numpy"]
    pins.write_text("# torch\n--no-index\n\npy-yaml==6.0.4\nray==2.60.0\nnumpy-quaternion==1\nnumpy==2.4.6\n")
    assert jobs.packages_of(tmp_path) == ["Py_YAML>=6", "numpy", "py-yaml==6.0.4", "numpy==2.4.6"]


def test_nodes_install_what_ray_train_needs_for_a_cluster_may_have_ray_alone(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["ray[default,train]>=2.52"]\n')
    packages = jobs.packages_of(tmp_path)
    assert {"pandas", "tensorboardX"} <= {*packages}
    assert not {"ray", "opencensus"} & {*packages}  # the second is of "default", which the jobs server needs itself


def test_a_submitted_job_is_followed(server):
    done = run("submit", "--address", "cluster:8265", "--", "train")
    assert "second" in done.stdout
    assert "working_dir" not in server.submitted[1]


def test_jobs_are_stopped_and_listed(server):
    assert run("stop", "--address", "cluster:8265", "job-1").exit_code == 0
    assert "STOPPED" in run("list", "--address", "cluster:8265").stdout


def test_what_is_not_there_is_one_sentence(server, tmp_path):
    for act in (
        lambda: jobs.Jobs("cluster:8265").follow("job-2", print, print),
        lambda: jobs.Jobs("cluster:8265").stop("job-2"),
    ):
        with pytest.raises(UserError, match="job-2: there is no such job at http://cluster:8265"):
            act()
    with pytest.raises(UserError, match=r"--install: .*pyproject.toml does not tell the packages"):
        jobs.packages_of(tmp_path)
    assert "is no folder" in str(run("submit", "--working-dir", "nowhere", "--", "train").exception)
    assert "--address: say which cluster" in str(run("list").exception)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            AuthenticationError("Authentication required: x"),
            "asks for a token and none was found; put it in RAY_AUTH_TOKEN",
        ),
        (AuthenticationError("Authentication failed: x"), "does not take the token of RAY_AUTH_TOKEN"),
        (RuntimeError("status code 500: No available agent"), "the agent of the cluster's head does not answer"),
        (ConnectionError("Failed to connect to Ray at address: x.\nmore"), "--address http://x: Failed to connect"),
    ],
)
def test_a_refusal_is_one_sentence(monkeypatch, error, sentence):
    def refuse(_):
        raise error

    monkeypatch.setattr(jobs, "JobSubmissionClient", refuse)
    with pytest.raises(UserError) as told:
        jobs.Jobs("x")
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("run_dir", "told"),
    [
        ((), True),
        (("--run-dir", "runs/a"), True),
        (("--run-dir=/shared/a",), False),
        (("--run-dir", "s3://b/a"), False),
    ],
)
def test_a_run_that_would_go_with_its_job_is_told(server, run_dir, told):
    done = run("submit", "--address", "cluster:8265", "--detach", "--", "train", *run_dir)
    assert ("name a --run-dir that all nodes reach" in done.stderr) is told
