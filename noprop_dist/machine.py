"""The clock, the threads and the name of the process that runs here. The simulation puts others in their place."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NoReturn, Protocol


class Machine(Protocol):
    """What code that waits, or works beside other code, has of its process and of the time."""

    def time(self) -> float:
        """Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds of a clock that nobody sets."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def owner(self) -> bytes:
        """A name of this process that no other process has, ever: a JSON object of host, pid and id."""
        ...

    def thread(self, name: str) -> Executor:
        """A thread that does one thing after the other."""
        ...

    def every(self, seconds: float, do: Callable[[], None], name: str) -> Callable[[], None]:
        """Do something again and again in a thread of its own; call what is returned to end that."""
        ...

    def end_process(self) -> NoReturn:
        """End this process at once: no `finally`, no byte more."""
        ...


class ThisMachine:
    """The real one."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def owner(self) -> bytes:
        return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}).encode()

    def thread(self, name: str) -> Executor:
        return ThreadPoolExecutor(1, name)

    def every(self, seconds: float, do: Callable[[], None], name: str) -> Callable[[], None]:
        stop = threading.Event()

        def repeat() -> None:
            while not stop.wait(seconds):
                do()

        repeating = threading.Thread(target=repeat, name=name, daemon=True)
        repeating.start()

        def end() -> None:
            stop.set()
            repeating.join(timeout=seconds)

        return end

    def end_process(self) -> NoReturn:
        os._exit(1)


HERE: Machine = ThisMachine()
