"""What a simulated process has of its machine: virtual time, and threads that are greenlets."""

import json
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, NoReturn

from noprop_dist.simulation.world import Process, ProcessDied, Thread


class SimulatedMachine:
    """A `Machine` for one process.

    Args:
        process: that it belongs to.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world

    def time(self) -> float:
        return round(self._world.now, 3)

    def monotonic(self) -> float:
        return self._world.now

    def sleep(self, seconds: float) -> None:
        self._world.sleep(seconds)

    def owner(self) -> bytes:
        return json.dumps({"host": self._process.node, "pid": 1, "id": self._process.name}).encode()

    def thread(self, name: str) -> Any:  # noqa: ARG002 (as `Machine` has it)
        return SimulatedExecutor(self._process)

    def every(self, seconds: float, do: Callable[[], None], name: str) -> Callable[[], None]:  # noqa: ARG002
        ended: list[bool] = []

        def repeat() -> None:
            while True:
                self._world.sleep(seconds)
                if ended:
                    return
                do()

        self._process.start(repeat)
        return lambda: ended.append(True)

    def end_process(self) -> NoReturn:
        self._process.die()
        raise ProcessDied


class SimulatedFuture:
    """What comes of one task, as `concurrent.futures.Future` has it.

    Args:
        process: that asked for it.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._waiting: list[Thread] = []
        self._error: Exception | None = None
        self._result: Any = None
        self._done = False

    def do(self, task: Callable[[], Any]) -> None:
        """Do the task, and keep its result or what it raises."""
        try:
            self._result = task()
        except Exception as error:
            self._error = error
        self._done = True
        for thread in self._waiting:
            thread.wake()

    def done(self) -> bool:
        return self._done

    def exception(self, timeout: float | None = None) -> Exception | None:
        until = self._process.world.now + (inf if timeout is None else timeout)
        while not self._done:
            left = until - self._process.world.now
            if left <= 0:
                raise TimeoutError
            thread = self._process.world.current
            assert thread is not None
            self._waiting.append(thread)
            thread.wait(left)
        return self._error

    def result(self, timeout: float | None = None) -> Any:
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._result


class SimulatedExecutor:
    """One thread that does one task after the other, as `concurrent.futures.ThreadPoolExecutor(1)` has it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._tasks: deque[tuple[SimulatedFuture, Callable[[], Any]]] = deque()
        self._working = False

    def submit(self, do: Callable[..., Any], *arguments: Any) -> SimulatedFuture:
        future = SimulatedFuture(self._process)
        self._tasks.append((future, lambda: do(*arguments)))
        if not self._working:
            self._working = True
            self._process.start(self._work)
        return future

    def _work(self) -> None:
        while self._tasks:
            future, task = self._tasks.popleft()
            future.do(task)
        self._working = False

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        if cancel_futures:
            self._tasks.clear()
