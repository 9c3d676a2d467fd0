"""`launch/slurm.sbatch` on a real Slurm of two nodes, whose /etc/hosts gives each node's own name as 127.0.1.1."""

import re
import time

import pytest
from run_facts import fingerprints, records_of, rounds_of
from slurm_cluster import ROOT, slurm_cluster, why_not

from noprop_dist.records import RunEnded, WorkerReady
from noprop_dist.stages import block
from noprop_dist.storage.run_directory import RunDirectory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

STEPS = 400
SCRIPT = "launch/slurm.sbatch"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def ended(cluster):
    """No test finds the jobs of one that has failed."""
    yield
    cluster.login.run("scancel --user=ada; scancel --user=ben")
    cluster.wait(cluster.is_free, 90, "free nodes")


@pytest.fixture(scope="module")
def undisturbed(sequential):
    """Fingerprints of the same run in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tests/faults")
        return fingerprints(sequential(*settings("nowhere")))


def settings(slow, seconds=0.1):
    """Of a run that takes its time for as long as a file is there."""
    network = f"{{kind: custom, path: 'networks:Slow', arguments: {{seconds: {seconds}, while_there: '{slow}'}}}}"
    return ["blocks.count=2", f"training.max_steps={STEPS}", "evaluation.samples=0", f"blocks.network={network}"]


class Job:
    """A run of digits on two blocks, submitted as a user would.

    Args:
        cluster: to which it is submitted.
        name: of the run's folder in the user's home.
        options: of sbatch.
        user: who submits it.
        seconds: that a step takes until the job `finishes`.
        more: settings of the run.
        script: that is submitted.
    """

    def __init__(self, cluster, name, *options, user="ada", seconds=0.1, more=(), script=SCRIPT):
        self._cluster, home = cluster, cluster.folder / "home" / user
        self.run, self._slow = home / name, home / f"{name}.slow"
        self._slow.touch()
        slow = settings(f"/srv/home/{user}/{name}.slow", seconds)
        given = [*slow, "engine.workers=2", "engine.round_steps=10", *more]
        words = " ".join(f'--set "{each}"' for each in given)
        command = f"sbatch --parsable --cpus-per-task=2 {' '.join(options)} {script} --run-dir ~/{name} {words}"
        self.id = cluster.slurm(command, user, PYTHONPATH=f"{ROOT}:{ROOT}/tests/faults").strip()

    @property
    def facts(self):
        """What Slurm says of it."""
        return dict(re.findall(r"(\w+)=(\S*)", self._cluster.slurm(f"scontrol show job {self.id}")))

    @property
    def log(self):
        return (self._cluster.folder / f"project/noprop-{self.id}.log").read_text()

    def trains(self, times=1):
        """Wait until both blocks are at work, for the first time or once more after the run was stopped."""

        def at_work():
            if not self.run.exists() or len(ends := records_of(self.run, RunEnded)) < times - 1:
                return False
            last = max((end.time for end in ends), default=0)
            return {block(1), block(2)} <= {each.stage for each in rounds_of(self.run) if each.time > last}

        self._cluster.wait(lambda: at_work() or self.facts["JobState"] == "FAILED", 150, "steps of both blocks")
        assert self.facts["JobState"] == "RUNNING", self.log

    def ended(self, seconds=180):
        """How it ended, once all nodes are free."""
        self._cluster.wait(lambda: self.facts["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), seconds, "end")
        self._cluster.wait(self._cluster.is_free, 60, "free nodes")
        assert self._cluster.left_over() == [], "Ray's folders are gone"
        return self.facts["JobState"]

    def finishes(self):
        self._slow.unlink()
        assert self.ended() == "COMPLETED", self.log

    def has_saved_where_it_stood(self):
        saved = RunDirectory(str(self.run)).checkpoints.saved_steps()
        for t in (1, 2):
            last = max(each.step for each in rounds_of(self.run, block(t)))
            assert saved[f"block-{t:02d}"][-1] == last < STEPS


def test_a_job_trains_on_all_of_its_nodes_though_their_names_are_loopback_addresses(cluster, undisturbed):
    job = Job(cluster, "two", "--nodes=2")
    job.trains()
    job.finishes()
    assert {ready.host for ready in records_of(job.run, WorkerReady)} == {"n1", "n2"}
    assert "4 cores available" in job.log
    assert fingerprints(job.run) == undisturbed


def test_jobs_of_two_users_run_on_one_node_at_once(cluster):
    jobs = [Job(cluster, f"one-{n}", "--nodelist=n1", user=user) for n, user in enumerate(["ada", "ada", "ben"])]
    for job in jobs:
        job.trains()
    for job in jobs:
        job._slow.unlink()
    for job in jobs:
        cluster.wait(lambda job=job: job.facts["JobState"] == "COMPLETED", 150, f"end of {job.log}")
    assert jobs[-1].ended() == "COMPLETED"


def test_a_job_that_is_preempted_or_told_to_stop_goes_on_to_the_same_bits(cluster, undisturbed):
    job = Job(cluster, "stopped", "--nodes=2")
    job.trains()
    other = cluster.slurm("sbatch --parsable --partition=urgent --nodes=2 --exclusive --wrap 'sleep 1'").strip()
    cluster.wait(lambda: job.facts["JobState"] == "PENDING", 60, f"preemption by {other}")
    job.has_saved_where_it_stood()
    job.trains(2)
    cluster.slurm(f"scancel --batch --signal=TERM {job.id}")
    cluster.wait(lambda: job.facts["JobState"] == "PENDING", 60, "requeue")
    job.has_saved_where_it_stood()
    assert cluster.left_over() == []
    job.finishes()
    assert job.facts["Restarts"] == "2"
    assert job.log.count("to register with Ray") == 3, "its log is kept"
    assert "the Ray cluster, or this" not in job.log
    assert fingerprints(job.run) == undisturbed


def test_a_job_goes_on_after_its_time_limit(cluster):
    job = Job(cluster, "limited", "--nodes=1", "--time=2", "--signal=B:TERM@60", seconds=0.4)
    cluster.wait(lambda: job.facts["Restarts"] == "1", 200, "requeue")
    job.finishes()


def test_a_job_that_is_cancelled_snapshots_and_is_not_queued_again(cluster):
    job = Job(cluster, "cancelled", "--nodes=2")
    job.trains()
    cluster.slurm(f"scancel {job.id}")
    asked = time.time()
    assert job.ended() == "CANCELLED"
    assert time.time() - asked < 25, "the nodes are given back before Slurm kills what is there"
    assert "Ray has ended" not in job.log
    job.has_saved_where_it_stood()


def test_a_job_whose_ray_ends_on_one_node_fails_and_says_so(cluster):
    job = Job(cluster, "lost", "--nodes=2")
    job.trains()
    cluster.nodes["n2"].run("pkill -KILL -x raylet")
    assert job.ended() == "FAILED"
    assert "Ray on n2 ended with code" in job.log
    assert "signal 9" in job.log
    assert "Ray has ended on n2" in job.log
    assert job.facts["Restarts"] == "0"


def test_a_job_fails_where_one_node_cannot_start_ray(cluster):
    job = Job(cluster, "short", "--nodes=2", "--hold")
    folder = f"/tmp/noprop-61001-{job.id}"
    cluster.nodes["n2"].run(f"mkdir {folder}")
    cluster.slurm(f"scontrol release {job.id}")
    cluster.wait(lambda: job.facts["JobState"] == "FAILED", 60, "end")
    assert f"{folder} on n2 belongs to somebody else" in job.log
    assert not job.run.exists(), "it did not begin to train on the other"
    cluster.nodes["n2"].run(f"rmdir {folder}")
    job.ended()


def test_a_job_fails_where_one_node_does_not_register_in_time(cluster):
    impatient = (ROOT / SCRIPT).read_text().replace("REGISTER_SECONDS=300", "REGISTER_SECONDS=8")
    (cluster.folder / "project/impatient.sbatch").write_text(impatient)
    job = Job(cluster, "stuck", "--nodes=2", script="impatient.sbatch")
    cluster.nodes["n2"].run("until pkill -STOP -f '[r]ay start --block'; do sleep 0.05; done")
    assert job.ended() == "FAILED"
    assert "1 of 2 nodes have registered with Ray within 8 s" in job.log
    assert not job.run.exists()


def test_a_run_that_fails_ends_its_job_with_its_code_and_sentence(cluster):
    job = Job(cluster, "wrong", "--nodes=1", more=["blocks.count=0"])
    assert job.ended() == "FAILED"
    assert job.facts["ExitCode"] == "2:0"
    assert "blocks.count" in job.log
    assert job.facts["Restarts"] == "0"


def test_a_folder_whose_sockets_would_have_too_long_paths_is_refused(cluster):
    job = Job(cluster, "long", "--nodes=1", f"--export=ALL,RAY_TMPDIR=/tmp/{'x' * 40}")
    assert job.ended() == "FAILED"
    assert "RAY_TMPDIR=/tmp/xxx" in job.log
