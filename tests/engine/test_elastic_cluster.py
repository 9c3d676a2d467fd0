"""A run on a cluster that begins with no device: Ray's autoscaler starts nodes because it asks, and gets them back."""

import os
from pathlib import Path

import fake_cloud_runs
import pytest
from run_facts import fingerprints

from noprop_dist.bench.namespaces import in_namespaces, may_unshare
from noprop_dist.bench.networks import sleeping

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not may_unshare(), reason="this user may make no process and network namespaces"),
]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Processes that the test starts can import what lies beside it."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def test_a_run_grows_from_nothing_to_one_device_a_block_and_gives_them_back(sequential, tmp_path):
    found, nodes_used, most, empty = in_namespaces(fake_cloud_runs.grow_from_nothing, print, tmp_path)
    assert found == fingerprints(sequential(*fake_cloud_runs.SETTINGS, "training.max_steps=200", *sleeping(0.0, 3)))
    assert (nodes_used, most) == (3, 3)
    assert empty


def test_a_killed_driver_asks_for_no_device_any_more(tmp_path):
    empty, came_later = in_namespaces(fake_cloud_runs.kill_the_driver, print, tmp_path)
    assert empty
    assert came_later == 0


def test_a_run_waits_for_gpus_that_the_autoscaler_can_start_and_trains_on_no_cpu(tmp_path):
    waited, came, trained, told = in_namespaces(fake_cloud_runs.ask_for_gpus, print, tmp_path)
    assert waited, told
    assert came, told
    assert trained == 0
