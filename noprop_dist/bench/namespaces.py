"""Runs a benchmark in process and network namespaces of its own.

It may take Ray's usual ports there, and whatever it started ends with it.
"""

import fcntl
import os
import pickle
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from noprop_dist.bench.harness import Say
from noprop_dist.engines.ray.token import use_token_if_there_is_one
from noprop_dist.errors import TrainingError, UserError

Result = TypeVar("Result")
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def may_unshare() -> bool:
    """Return True if this user may make such namespaces here."""
    try:
        return subprocess.run([*_unshare(), "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def in_namespaces(measure: Callable[..., Result], say: Say, *arguments: Any) -> Result:
    """What `measure(*arguments, say)` returns, called in a process of its own in namespaces of its own.

    Args:
        measure: a function of a module.
        say: told what it says.
        arguments: can be pickled, as can what it returns.

    Raises:
        UserError: such namespaces cannot be made here.
        TrainingError: it failed; its last words are in the message.
    """
    if not may_unshare():
        raise UserError(
            "`unshare --pid --net --mount-proc` of util-linux does not work here: run it as root, or allow it"
        )
    with tempfile.TemporaryDirectory(prefix="noprop-dist-") as folder:
        call, result, errors = (Path(folder) / name for name in ("call", "result", "errors"))
        call.write_bytes(pickle.dumps((measure, arguments)))
        # A shell is the first process, because that one has to wait for the orphans of all others.
        command = [*_unshare(), "sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-m", __name__]
        with errors.open("w") as stderr:
            process = subprocess.Popen([*command, call, result], stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                say(line.rstrip("\n"))
            process.wait()
        finally:
            process.kill()  # and with it, by --kill-child, all that it started
        if not result.exists():
            last = errors.read_text().strip().rpartition("\n")[2]
            raise TrainingError(f"the benchmark ended with code {process.returncode}: {last}")
        outcome: Result | UserError | TrainingError = pickle.loads(result.read_bytes())
    if isinstance(outcome, UserError | TrainingError):
        raise outcome
    return outcome


def _unshare() -> list[str]:
    own_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *own_user, "--pid", "--fork", "--kill-child", "--mount-proc", "--net"]


def _loopback_up() -> None:
    """A new network namespace has a loopback device that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        _, flags = struct.unpack("16sh", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))


def _main(call: Path, result: Path) -> None:
    _loopback_up()
    use_token_if_there_is_one()
    measure, arguments = pickle.loads(call.read_bytes())
    try:
        outcome = measure(*arguments, _tell)
    except (UserError, TrainingError) as error:
        outcome = error
    result.write_bytes(pickle.dumps(outcome))


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
