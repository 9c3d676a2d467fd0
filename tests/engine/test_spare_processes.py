"""A node that a worker is on keeps one process more, with its imports done, which the next actor there takes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from noprop_dist.engines.ray import spares
from noprop_dist.engines.ray.cluster import ray_session
from noprop_dist.engines.ray.fork_server import PRELOADED
from noprop_dist.engines.ray.loopback import loopback_cluster
from noprop_dist.engines.ray.spares import AFTER_SECONDS, LEAST_MEMORY_BYTES, SpareProcesses

MODULES = PRELOADED["RAY_preload_python_modules"].split(",")
REPOSITORY = Path(__file__).parents[2]


class Successor:
    def process(self):
        return os.getpid(), all(name in sys.modules for name in MODULES)


def start(node):
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    actor = ray.remote(num_cpus=1, scheduling_strategy=there)(Successor).remote()
    return actor, ray.get(actor.process.remote(), timeout=60)


def idle_processes():
    return {int(each.parent.name) for each in Path("/proc").glob("[0-9]*/cmdline") if b"ray::IDLE" in read(each)}


def read(file):
    try:
        return file.read_bytes()
    except OSError:  # it has just ended
        return b""


def wait_for_one_more(before):
    deadline = time.monotonic() + 60
    while not (new := idle_processes() - before):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return new


def lose_two_processes():
    with loopback_cluster(1) as cluster, ray_session(cluster.address):
        node = cluster.node_id(0)
        actor, _ = start(node)
        processes = SpareProcesses(wanted=1)
        for again in (False, True):
            before = idle_processes()
            processes.started(node, now=0.0, again=again)
            processes.advance(AFTER_SECONDS - 1)
            assert idle_processes() <= before
            processes.advance(AFTER_SECONDS)
            spare = wait_for_one_more(before)
            ray.kill(actor)
            actor, (process, imported) = start(node)
            assert process in spare
            assert imported
        processes.close()


@pytest.mark.slow
def test_a_lost_process_is_followed_by_one_that_was_there_with_its_imports_done():
    """In a process of its own: this one may be connected to a Ray of other tests."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def test_no_spare_is_asked_for_where_none_is_wanted_or_memory_is_short(monkeypatch):
    memory = {"small": LEAST_MEMORY_BYTES - 1, "large": LEAST_MEMORY_BYTES}
    nodes = [{"NodeID": each, "Alive": True, "Resources": {"memory": memory[each]}} for each in memory]
    asked = []
    monkeypatch.setattr(spares.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(SpareProcesses, "_ask", lambda self, node, number: asked.append((node["NodeID"], number)))
    for wanted in (0, 2):
        processes = SpareProcesses(wanted)
        for node in memory:
            processes.started(node, now=0.0)
            processes.started(node, now=1.0, again=True)
        processes.advance(1.0 + AFTER_SECONDS)
    assert asked == [("large", 2), ("large", 1)]


@pytest.mark.parametrize("shipped", ["deploy/Dockerfile", "launch/slurm.sbatch"])
def test_what_is_shipped_lets_rays_processes_do_their_imports_ahead(shipped):
    for name, value in PRELOADED.items():
        assert f"{name}={value}" in (REPOSITORY / shipped).read_text()


if __name__ == "__main__":
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    lose_two_processes()
