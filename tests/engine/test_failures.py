"""What a user reads when something goes wrong inside a run: the block, and the real cause."""

import os
import time

import pytest
import ray

from noprop_dist.engines.ray.driver import train_on_ray
from noprop_dist.errors import TrainingError, UserError
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
