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
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
END_SECONDS = 1.0
"""For the server to end its workers. While it imports it has none, and hears nothing."""
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
    address = os.environ[ADDRESS] = f"noprop-dist-{os.getpid()}-{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + address)  # a name that is no file: nothing is left behind
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
        assert server.stdin is not None
        server.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            server.wait(END_SECONDS)
        server.kill()
        server.wait()


def _preload() -> None:
    """Let the nodes that this process starts preload imports, if memory allows: they start a process for each core."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (os.cpu_count() or 1) * PRELOADED_BYTES <= memory_bytes / 4:
        for name, value in PRELOADED.items():
            os.environ.setdefault(name, value)


@dataclass(frozen=True)
class _Worker:
    """A forked worker. Who asked for it lasts as long as it does, and it as long as that."""

    asking: socket.socket
    process: int  # a descriptor of it, which means no other process once it has ended

    def end(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.process, signal.SIGKILL)
        os.waitid(os.P_PIDFD, self.process, os.WEXITED)
        self.close()

    def close(self) -> None:
        self.asking.close()
        os.close(self.process)


def serve(listener: socket.socket) -> None:
    """Fork a worker for everyone who asks, until the driver is gone. Returns in the workers alone, as one of them."""
    workers = list[_Worker]()
    while True:
        ends = {each: worker for worker in workers for each in (worker.asking, worker.process)}
        ready, _, _ = select.select([listener, sys.stdin, *ends], [], [])
        if sys.stdin in ready:
            for worker in workers:
                worker.end()
            raise SystemExit
        for worker in {ends[each] for each in ready if each in ends}:
            workers.remove(worker)
            worker.end()
        if listener in ready:
            asking, _ = listener.accept()
            if not _is_of_this_user(asking):
                asking.close()
                continue
            message, descriptors = _read(asking)
            if (child := _fork()) == 0:
                listener.close()
                asking.close()
                for worker in workers:
                    worker.close()
                _become(json.loads(message), descriptors)
                return
            if child is None:
                asking.close()
            else:
                workers.append(_Worker(asking, os.pidfd_open(child)))
                with suppress(OSError):
                    asking.send(FORKED)
            for descriptor in descriptors:
                os.close(descriptor)


def _fork() -> int | None:
    """As `os.fork`; None where there can be no more processes: who asked then tries by itself, and is told."""
    try:
        return os.fork()
    except OSError:
        return None


def _is_of_this_user(asking: socket.socket) -> bool:
    """Anybody on this machine can connect, and a worker does what it is told."""
    _, user, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(user == os.getuid())


def _read(asking: socket.socket) -> tuple[bytes, list[int]]:
    """What a worker is to be, a line of JSON, and the descriptors that came with it."""
    message, descriptors, _, _ = socket.recv_fds(asking, 1 << 16, DESCRIPTORS)
    while not message.endswith(b"\n") and (part := asking.recv(1 << 16)):
        message += part
    return message, descriptors


def _become(asked: Any, descriptors: list[int]) -> None:
    """Make this process what it would be if it had been started by who asked."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.setpgid(0, 0)
    os.setpriority(os.PRIO_PROCESS, 0, asked["priority"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    if asked["folder"] is not None:
        with suppress(OSError):  # it was deleted
            os.chdir(asked["folder"])
    sys.argv = [default_worker(), *asked["arguments"]]
    random.seed()


def main() -> None:
    """Import, and serve the socket of the number that is given."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    os.close(os.pidfd_open(os.getpid()))  # fails, and ends the server, where a system allows none
    for module in MODULES:
        import_module(module)
    sys.modules["torch"].set_num_threads(1)  # as with the OMP_NUM_THREADS=1 that Ray sets, which comes too late here
    gc.collect()
    gc.freeze()  # what is shared stays shared
    serve(listener)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
