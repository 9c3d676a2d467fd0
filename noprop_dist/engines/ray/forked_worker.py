"""What a Ray of our own starts as a worker: asks the fork server for one, and lasts as long as that.

It is a program of its own, which imports nothing that takes time. Without a server it becomes the worker itself.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # this package's folder, whose files would take the place of any module from here on

import json
import os
import runpy
import socket
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

ADDRESS = "NOPROP_DIST_FORK_SERVER"
DESCRIPTORS = 3
"""Standard input, output and error of the worker."""
FORKED = b"1"
ANSWER_SECONDS = 30.0
"""For a server that imports."""


def default_worker() -> str:
    """The program that Ray itself starts as a worker."""
    package = find_spec("ray")
    assert package is not None
    assert package.origin is not None
    return str(Path(package.origin).parent / "_private/workers/default_worker.py")


def is_forked(address: str | None) -> bool:
    """Return True once a worker that was forked has ended; False if there is no server."""
    if address is None:
        return False
    asked = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": _working_directory(),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
    }
    message = json.dumps(asked).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(ANSWER_SECONDS)
            server.connect("\0" + address)
            sent = socket.send_fds(server, [message], list(range(DESCRIPTORS)))
            server.sendall(message[sent:])
            forked = server.recv(1) == FORKED
            server.settimeout(None)
            with suppress(ConnectionError):
                server.recv(1)  # the worker's end
            return forked
    except OSError:
        return False


def _working_directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:  # it was deleted
        return None


if __name__ == "__main__":
    if not is_forked(os.environ.pop(ADDRESS, None)):
        sys.argv[0] = default_worker()
        runpy.run_path(sys.argv[0], run_name="__main__")
