"""What a user reads when something goes wrong inside a run: the block, and the real cause."""

import errno
import os
import time
from pathlib import Path

import pytest
import ray

from noprop_dist.engines.ray.driver import train_on_ray
from noprop_dist.errors import TrainingError, UserError
from noprop_dist.storage.store import StorageError, UnusableStorageError
from noprop_dist.training.messages import RunOutcome

NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, classes, embedding_dim):
        super().__init__()
        self.layer = nn.Linear(embedding_dim, classes)

    def forward(self, x, z):
        return self.layer(z)
"""
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_here")]


def test_a_run_for_which_there_is_no_room_says_so(run_here, small_config, tmp_path):
    @ray.remote(num_cpus=2)
    class Other:
        def here(self):
            return True

    other = Other.remote()
    assert ray.get(other.here.remote(), timeout=60)
    config = small_config("engine.workers=2", "engine.start_timeout_seconds=3")
    with pytest.raises(TrainingError, match="no block worker started within .*=3: other runs may hold"):
        run_here(config, str(tmp_path / "run"))
    ray.kill(other)


def test_a_network_that_only_the_driver_can_import_is_told(run_here, small_config, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    config = small_config("blocks.network={kind: custom, path: 'only_here:Net'}")
    with pytest.raises(TrainingError, match="block 1 .*'only_here:Net' cannot be imported"):
        run_here(config, str(tmp_path / "run"))


def test_a_mistake_found_by_the_coordinator_is_the_users(small_config, tmp_path):
    config = small_config("data={name: npz, root: none.npz}")
    with pytest.raises(UserError, match="there is no such file"):
        train_on_ray(config, str(tmp_path / "run"), lambda _: None)
    assert not (tmp_path / "run").exists()


def test_a_coordinator_that_is_lost_again_and_again_ends_the_run_and_says_how_to_go_on(small_config, tmp_path):
    class Dies:
        def __init__(self, config, directory, resume, **_):
            self.resume = resume

        def run(self):
            with (tmp_path / "begun").open("a") as file:
                print("resumed" if self.resume else "new", file=file)
            os._exit(1)

        def progress(self):
            return None

    said, config = [], small_config("engine.max_failures=1")
    with pytest.raises(TrainingError, match=r"the coordinator was lost: .*; `noprop-dist resume .*` continues the run"):
        train_on_ray(config, str(tmp_path / "run"), lambda _: None, say=said.append, coordinator_class=Dies)
    assert (tmp_path / "begun").read_text().split() == ["new", "resumed"]
    assert len([line for line in said if "a new one goes on from the run directory" in line]) == 1


@pytest.fixture
def ends_as():
    """See its class, which is sent to the coordinator's process by value."""

    class EndsAs:
        """Ends as the file says: it is lost, the storage fails it, it finds it locked, or it ends well."""

        def __init__(self, config, directory, resume, **_):
            self.ends = Path(f"{directory}.ends")

        def run(self):
            now, *later = self.ends.read_text().split()
            self.ends.write_text(" ".join(later))
            if now == "lost":
                os._exit(1)
            if now == "fails":
                raise StorageError(errno.ENOSPC, "run/metrics.jsonl: No space left on device")
            if now == "locked":
                raise UnusableStorageError("the run directory cannot be written: run/run.lock: No space left on device")
            return RunOutcome("run", 0, None)

        def progress(self):
            return None

    return EndsAs


def test_a_coordinator_that_is_started_again_waits_for_storage_that_fails(small_config, tmp_path, ends_as):
    said, directory = [], str(tmp_path / "run")
    (tmp_path / "run.ends").write_text("lost fails locked ends")
    train_on_ray(small_config(), directory, pytest.fail, say=said.append, coordinator_class=ends_as)
    waits = [line for line in said if "it is tried again for checkpoint.storage_timeout_seconds=600" in line]
    assert len(waits) == 2
    assert all("No space left on device" in line for line in waits)


@pytest.mark.parametrize(
    ("ends", "error", "message"),
    [
        ("fails", TrainingError, "the run directory cannot be read or written: run/metrics.jsonl: No space left"),
        ("locked", UserError, "the run directory cannot be written: run/run.lock: No space left"),
        ("lost fails fails", TrainingError, "the run directory cannot be read or written: run/metrics.jsonl: No"),
    ],
)
def test_storage_that_fails_ends_a_run_that_has_just_begun_or_has_waited_for_it(
    small_config, tmp_path, ends_as, ends, error, message
):
    (tmp_path / "run.ends").write_text(ends)
    config = small_config("checkpoint.storage_timeout_seconds=0.5")
    with pytest.raises(error, match=message):
        train_on_ray(config, str(tmp_path / "run"), pytest.fail, coordinator_class=ends_as)
    assert (tmp_path / "run.ends").read_text() == ""


def test_what_the_coordinator_waits_for_before_there_is_a_table_is_told_once(small_config, tmp_path):
    class Waits:
        def __init__(self, config, directory, resume, **_):
            self.asked = 0

        def run(self):
            while self.asked < 3:
                time.sleep(0.05)
            return RunOutcome("run", 0, None)

        def progress(self):
            self.asked += 1
            return "process 1 on a writes this run" if self.asked > 1 else None

    said, directory = [], str(tmp_path / "run")
    train_on_ray(small_config(), directory, pytest.fail, say=said.append, coordinator_class=Waits)
    assert said == ["process 1 on a writes this run"]
