"""Runs the callbacks of one run, each in a thread of its own, so that none holds up or ends the run."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from noprop_dist.records import Record
from noprop_dist.tracking.callback import Callback, RunInfo, method_for

MOST_WAITING = 10_000
"""Records on their way to one callback. More are dropped: about 4 MB, or minutes of a fast run."""
END_SECONDS, STOP_SECONDS = 30.0, 5.0
"""For all callbacks together at the end of a run, and on Ray after a stop, when the driver waits only so long."""


class CallbackHost:
    """Hands records to callbacks.

    Args:
        callbacks: of one run.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._news = deque[str]()
        self._listeners = [_Listener(each, self._news.append) for each in callbacks]
        self._earlier: list[Record] = []
        self._started = False

    def record(self, record: Record) -> None:
        """Take one record, for `RunLog`; never waits. Those before `start` are of earlier processes."""
        if not self._started:
            if self._listeners:
                self._earlier.append(record)
            return
        for listener in self._listeners:
            listener.put(record)

    def start(self, run: RunInfo) -> None:
        """Call `on_start`; what is recorded from here on is new."""
        self._started = True
        run, self._earlier = replace(run, earlier=tuple(self._earlier)), []
        for listener in self._listeners:
            listener.start(run)

    def news(self) -> list[str]:
        """Lines for people since the last call."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def close(self, seconds: float) -> list[str]:
        """Let all callbacks take in what is left, for so long; return lines for people."""
        until = time.monotonic() + seconds
        for listener in self._listeners:
            listener.end()
        for listener in self._listeners:
            listener.join(until, seconds)
        return self.news()


class _Listener:
    """One callback, its thread and its queue.

    Args:
        callback: called by the thread alone.
        tell: takes lines for people.
    """

    def __init__(self, callback: Callback, tell: Callable[[str], None]) -> None:
        self._callback, self._tell = callback, tell
        self._name = type(callback).__name__
        self._waiting = queue.Queue[Record](MOST_WAITING)
        self._ends, self._left_behind = threading.Event(), threading.Event()
        self._told: set[str] = set()
        self._thread: threading.Thread | None = None

    def start(self, run: RunInfo) -> None:
        self._thread = threading.Thread(target=self._follow, args=(run,), name=self._name, daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Queue a record; drop it if the callback is too far behind."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._tell_once("", f"is more than {MOST_WAITING} records behind; what comes meanwhile is not handed to it")

    def end(self) -> None:
        self._ends.set()

    def join(self, until: float, seconds: float) -> None:
        """Wait until the thread is done, or until that time."""
        if self._thread is None:
            return
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._left_behind.set()  # the run may go on in this very process, with another thread
            self._tell_once("end", f"was not done {seconds:g} s after the end of the run, and is left behind")

    def _follow(self, run: RunInfo) -> None:
        usable = self._call("on_start", run)
        while not self._left_behind.is_set():
            try:
                record = self._waiting.get(timeout=0.1)
            except queue.Empty:
                if self._ends.is_set():
                    return
                continue
            if usable:
                self._call(method_for(record), record)

    def _call(self, method: str, argument: RunInfo | Record) -> bool:
        """Call a method; return False if it raised."""
        try:
            getattr(self._callback, method)(argument)
        except BaseException as error:  # a thread of its own has no use for KeyboardInterrupt and SystemExit
            cause = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
            then = "it is not called any more, and" if method == "on_start" else "later errors of it are not told, and"
            self._tell_once(method, f"failed in {method}: {cause}; {then} the run goes on")
            return False
        return True

    def _tell_once(self, what: str, line: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell(f"callback {self._name} {line}")
