"""Starts a Ray of our own in another thread, while this one imports torch and checks data and networks."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar

from noprop_dist.phases import phase


class _Start(threading.Thread):
    """Holds a session: Linux ends Ray's processes with the thread that started them."""

    under_way: "ClassVar[_Start | None]" = None

    def __init__(self) -> None:
        super().__init__(name="start of Ray", daemon=True)
        self.error: BaseException | None = None
        self.is_over, self._not_needed = threading.Event(), threading.Event()

    def run(self) -> None:
        try:
            with phase("imports of Ray"):
                from noprop_dist.engines.ray.cluster import own_ray

            with ExitStack() as stack:
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
        self.join()


@contextmanager
def ray_ahead(address: str | None) -> Iterator[None]:
    """Start a Ray of our own beside what is done within the `with`, if a session at this address will need one.

    `ray_session` waits for it there, and raises what kept it from starting.
    """
    if address or os.environ.get("RAY_ADDRESS") or is_under_way() or _is_connected():
        yield
        return
    start = _Start.under_way = _Start()
    start.start()
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


def _is_connected() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())
