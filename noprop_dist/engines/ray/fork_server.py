"""A process that has imported what the processes of a run need, and forks: a worker is there in a moment.

The imports take a core two seconds in every process otherwise. Only a Ray of our own has such a server, for Ray starts
its workers with `forked_worker.py` there; on a cluster, and wherever this server is gone, they import as usual: as soon
as they start, if their node was started with `PRELOADED` in its environment.
"""

import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from noprop_dist.engines.ray.forked_worker import ADDRESS, DESCRIPTORS, FORKED, default_worker

MODULES = tuple(
    f"noprop_dist.{name}"
    for name in (
        *("engines.coordination", "engines.core.drawing", "engines.core.following", "engines.core.run"),
        *("engines.stage_worker", "inference.load", "metrics.exporter", "tracking.trackers", "training.footprint"),
    )
)
"""What coordinator and workers import, but Ray: when it is imported, that reads the environment of its process."""
PRELOADED = {"RAY_preload_python_modules": "torch,noprop_dist.engines.ray.coordinator"}
"""In the environment of a node of Ray: what its new processes import before they are given anything to do."""
PRELOADED_BYTES = 450 * 2**20
"""That such a process takes of its own (docs/measurements.md)."""
GPU_DEVICE = Path("/dev/nvidiactl")


@contextmanager
def fork_server() -> Iterator[None]:
    """Let the workers of a Ray that is started within the `with` be forked, or import ahead.

    Forks were not tried with GPUs, so there are none there.
    """
    if ADDRESS in os.environ:
        yield
        return
    if sys.platform != "linux" or GPU_DEVICE.exists():
        _preload()
        yield
        return
    with tempfile.TemporaryDirectory(prefix="noprop-dist-") as folder:
        address = os.environ[ADDRESS] = f"{folder}/fork"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(128)  # who asks before the imports are done waits
            command = [sys.executable, "-P", "-m", __name__, str(listener.fileno())]
            server = subprocess.Popen(
                command,
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,  # ends with this process, and the server with it
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the driver
            )
        try:
            yield
        finally:
            del os.environ[ADDRESS]
            server.terminate()
            server.wait()


def _preload() -> None:
    """Let the nodes that this process starts preload imports, if memory allows: they start a process for each core."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (os.cpu_count() or 1) * PRELOADED_BYTES <= memory_bytes / 4:
        for name, value in PRELOADED.items():
            os.environ.setdefault(name, value)


def serve(listener: socket.socket) -> None:
    """Fork a worker for everyone who asks, until the driver is gone. Returns in the workers alone, as one of them."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who asked sees the end of the connection
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            raise SystemExit
        asking, _ = listener.accept()
        message, descriptors, _, _ = socket.recv_fds(asking, 1 << 16, DESCRIPTORS)
        while part := asking.recv(1 << 16):
            message += part
        if os.fork() == 0:
            listener.close()
            asking.send(FORKED)
            asking.detach()  # is closed when this process ends
            _become(json.loads(message), descriptors)
            return
        for each in (asking.detach(), *descriptors):
            os.close(each)


def _become(asked: Any, descriptors: list[int]) -> None:
    """Make this process what it would be if it had been started by who asked."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.setpgid(0, 0)
    os.setpriority(os.PRIO_PROCESS, 0, asked["priority"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv = [default_worker(), *asked["arguments"]]
    random.seed()


def main() -> None:
    """Import, and serve the socket of the number that is given."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    for module in MODULES:
        import_module(module)
    sys.modules["torch"].set_num_threads(1)  # as with the OMP_NUM_THREADS=1 that Ray sets, which comes too late here
    gc.collect()
    gc.freeze()  # what is shared stays shared
    serve(listener)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
