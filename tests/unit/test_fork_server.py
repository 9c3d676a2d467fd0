"""Workers that are forked from a process that has imported everything, and what comes where they cannot be."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from noprop_dist.engines.ray import fork_server as module
from noprop_dist.engines.ray import forked_worker
from noprop_dist.engines.ray.fork_server import fork_server

IMPORTS = """
import sys
from importlib import import_module
from noprop_dist.engines.ray.fork_server import MODULES
for module in MODULES:
    import_module(module)
assert "ray" not in sys.modules
before = set(sys.modules)
import noprop_dist.engines.ray.coordinator, noprop_dist.engines.ray.workers
new = set(sys.modules) - before
print(*(each for each in new if each.startswith(("noprop_dist.", "torch.", "pyarrow."))))
"""
HOLDS_ONE = """
import time
from noprop_dist.engines.ray.fork_server import fork_server
with fork_server():
    print("there", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_the_server_has_imported_all_that_coordinator_and_workers_need_but_ray():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=60, check=True)
    assert [each for each in done.stdout.split() if not each.startswith("noprop_dist.engines.ray.")] == []


@pytest.mark.slow
@pytest.mark.skipif(module.GPU_DEVICE.exists(), reason="nothing is forked where there are GPUs")
def test_a_worker_is_forked_as_rays_own_and_started_once_the_server_is_gone(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["forked_worker.py", "--help"])
    with fork_server():
        address = os.environ[forked_worker.ADDRESS]
        assert forked_worker.is_forked(address), "it has come to its end"
        assert capfd.readouterr().out.startswith("usage: default_worker.py"), "it writes where it was asked for"
    assert forked_worker.ADDRESS not in os.environ
    assert not forked_worker.is_forked(address)
    program = [sys.executable, forked_worker.__file__, "--help"]
    started = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    assert started.stdout.startswith("usage: default_worker.py"), "by itself"


def test_a_server_that_dies_forks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MODULES", ("no_such_module",))
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with fork_server():
        assert not forked_worker.is_forked(os.environ[forked_worker.ADDRESS])


def test_nothing_is_forked_where_there_are_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GPU_DEVICE", tmp_path)
    with fork_server():
        assert forked_worker.ADDRESS not in os.environ


@pytest.mark.slow
@pytest.mark.skipif(module.GPU_DEVICE.exists(), reason="nothing is forked where there are GPUs")
def test_a_server_ends_with_a_driver_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", HOLDS_ONE], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout.readline() == "there\n"
        (server,) = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
        driver.send_signal(signal.SIGKILL)
    until = time.monotonic() + 30  # its imports come first
    while (state := state_of(server)) not in (None, "Z"):
        assert time.monotonic() < until, state
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(module.GPU_DEVICE.exists(), reason="nothing is forked where there are GPUs")
def test_a_worker_ends_with_who_asked_for_it_even_where_the_working_directory_is_gone(tmp_path, monkeypatch):
    """Ray kills who asked, where a worker does not answer. A worker of Ray's is stood in for by one that sleeps."""
    workers = tmp_path / "ray/_private/workers"
    workers.mkdir(parents=True)
    (tmp_path / "ray/__init__.py").touch()
    (workers / "default_worker.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    (folder := tmp_path / "gone").mkdir()
    program = "import os, runpy, sys; os.rmdir(os.getcwd()); runpy.run_path(sys.argv.pop(), run_name='__main__')"
    command = [sys.executable, "-c", program, forked_worker.__file__]
    with fork_server(), subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as asker:
        forked = int(asker.stdout.readline())
        assert forked != asker.pid
        os.kill(forked, signal.SIGSTOP)
        asker.kill()
        until = time.monotonic() + 10
        while (state := state_of(forked)) not in (None, "Z"):
            assert time.monotonic() < until, state
            time.sleep(0.1)


def state_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None
