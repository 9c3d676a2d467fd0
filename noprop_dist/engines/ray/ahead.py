"""Starts a Ray of our own in another thread, while this one imports torch and checks data and networks."""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar

from noprop_dist.engines.ray.fork_server import fork_server
from noprop_dist.phases import phase

CLONE_FS = 0x200
SILENT_SECONDS = 1.0
"""For which people need no word."""


class _Start(threading.Thread):
    """Holds a session: Linux ends Ray's processes with the thread that started them.

    It has a working directory of its own, which Ray's processes get: that of the others is elsewhere while they import
    torch (`import_elsewhere`).
    """

    under_way: "ClassVar[_Start | None]" = None

    def __init__(self) -> None:
        super().__init__(name="start of Ray", daemon=True)
        self.error: BaseException | None = None
        self.can_begin: bool | None = None
        self.is_decided, self.is_over, self._not_needed = threading.Event(), threading.Event(), threading.Event()

    def run(self) -> None:
        self.can_begin = "torch" in sys.modules or keeps_working_directory()
        self.is_decided.set()
        if self.can_begin:
            self._hold_a_session()

    def _hold_a_session(self) -> None:
        try:
            with ExitStack() as stack:
                stack.enter_context(fork_server())
                with phase("imports of Ray"):
                    from noprop_dist.engines.ray.cluster import own_ray
                with phase("start of Ray"):
                    stack.enter_context(own_ray())
                self.is_over.set()
                self._not_needed.wait()
        except BaseException as error:  # raised where the session is entered
            self.error = error
        finally:
            self.is_over.set()

    def end(self) -> None:
        self._not_needed.set()
        if not self.is_over.wait(SILENT_SECONDS) and sys.stderr is not None:
            print("Ray is still starting, and is ended first; Ctrl-C ends at once", file=sys.stderr)
        self.join()


@contextmanager
def ray_ahead(address: str | None) -> Iterator[None]:
    """Start a Ray of our own beside what is done within the `with`, if a session at this address will need one.

    `ray_session` waits for it there, and raises what kept it from starting.
    """
    if address or os.environ.get("RAY_ADDRESS") or is_under_way() or _is_connected():
        yield
        return
    start = _Start()
    start.start()
    start.is_decided.wait()
    if not start.can_begin:  # later, then, where torch is imported
        yield
        return
    _Start.under_way = start
    try:
        yield
    finally:
        start.end()
        _Start.under_way = None


def is_under_way() -> bool:
    """Return True within `ray_ahead`, where it starts a Ray."""
    return _Start.under_way is not None


def wait_until_started() -> None:
    """Within `ray_ahead`, wait for the end of the start.

    Raises:
        UserError: Ray could not be started.
    """
    start = _Start.under_way
    if start is not None:
        start.is_over.wait()
        if start.error is not None:
            raise start.error


def keeps_working_directory() -> bool:
    """Let this thread, and what it starts, keep the working directory whatever others do; False if it cannot.

    That is Linux's unshare, which a container may refuse.
    """
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    return unshare is not None and unshare(CLONE_FS) == 0


def _is_connected() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())
