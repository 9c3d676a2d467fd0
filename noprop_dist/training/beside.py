"""What comes of a stage's work beside its results: lines that a network prints, logs or warns, and files.

A network's words go to `sys.stdout` and `sys.stderr`, as everywhere, and besides to the stage whose work this thread
does. They are bounded: a network that prints at every step must not fill the run's log.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from noprop_dist.printable import printable

LINES_AT_ONCE, SECONDS_FOR_ONE_MORE = 20, 10.0
"""Of one stage: so many lines are kept at once, and then one more in so many seconds."""
LONGEST_LINE = 500
"""Characters; of a longer line the beginning is kept."""
Files = dict[str, bytes]


@dataclass(frozen=True)
class Left:
    """What was left since the last time.

    Attributes:
        lines: for people, each with the name of whoever said it.
        files: contents by name in the run directory.
    """

    lines: tuple[str, ...]
    files: Files

    def __bool__(self) -> bool:
        return bool(self.lines or self.files)


class Beside:
    """Gathers what one stage leaves; may be used from several threads.

    Args:
        name: of the stage; begins its lines.
        clock: seconds.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._unfinished = ""
        self._lines: list[str] = []
        self._files: Files = {}
        self._allowance, self._at = float(LINES_AT_ONCE), clock()
        self._cut = 0

    def hear(self, text: str) -> None:
        """Take in what was written to a stream; a line counts once it is ended."""
        with self._lock:
            *lines, rest = text.split("\n")
            for line in lines:
                self._add(self._unfinished + line)
                self._unfinished = ""
            self._unfinished = (self._unfinished + rest)[: LONGEST_LINE + 1]

    def leave(self, name: str, content: bytes) -> None:
        """Leave a file for the run directory."""
        with self._lock:
            self._files[name] = content

    def take(self) -> Left:
        """What was left since the last call."""
        with self._lock:
            left = Left(tuple(f"{self._name}: {line}" for line in self._lines), self._files)
            self._lines, self._files = [], {}
            return left

    def _add(self, line: str) -> None:
        if not line.strip():
            return
        now = self._clock()
        self._allowance = min(self._allowance + (now - self._at) / SECONDS_FOR_ONE_MORE, LINES_AT_ONCE)
        self._at = now
        if self._allowance < 1:
            if not self._cut:
                self._lines.append(
                    f"says more than is kept: {LINES_AT_ONCE} lines at once, and one more in "
                    f"{SECONDS_FOR_ONE_MORE:.0f} s; the rest is in the worker's own output"
                )
            self._cut += 1
            return
        if self._cut:
            self._lines.append(f"({self._cut} lines were cut)")
            self._cut = 0
        self._allowance -= 1
        self._lines.append(printable(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} …"))


class _Stream:
    """A text stream that also tells whoever is at work of what is written to it; all else is the stream's.

    Args:
        stream: the one that it stands for.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write and tell."""
        listener = _AT_WORK.listener()
        if listener is not None:
            listener.hear(text)
        return self.stream.write(text)

    def writelines(self, lines: Any) -> None:
        """Write and tell each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _AtWork:
    """The stages that are at work in this process, by thread. Streams are replaced while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_thread: dict[int, Beside] = {}
        self._streams: dict[str, _Stream] = {}

    def listener(self) -> Beside | None:
        """Whoever is at work in this thread; in one of torch's or the network's own, whoever is alone at work."""
        here = self._by_thread.get(threading.get_ident())
        if here is not None:
            return here
        others = list(self._by_thread.values())
        return others[0] if len(others) == 1 else None

    def begin(self, beside: Beside) -> Beside | None:
        """Begin work in this thread; return who was at work in it before."""
        with self._lock:
            before = self._by_thread.get(threading.get_ident())
            self._by_thread[threading.get_ident()] = beside
            for name in ("stdout", "stderr"):
                stream = getattr(sys, name)
                if stream is not None and not isinstance(stream, _Stream):
                    if name not in self._streams or self._streams[name].stream is not stream:
                        self._streams[name] = _Stream(stream)
                    setattr(sys, name, self._streams[name])
        return before

    def end(self, before: Beside | None) -> None:
        """End work in this thread; `before` goes on with its own."""
        with self._lock:
            if before is not None:
                self._by_thread[threading.get_ident()] = before
                return
            del self._by_thread[threading.get_ident()]
            for name in ("stdout", "stderr") if not self._by_thread else ():
                stream = getattr(sys, name)
                if isinstance(stream, _Stream):
                    setattr(sys, name, stream.stream)


_AT_WORK = _AtWork()


@contextmanager
def at_work(beside: Beside) -> Iterator[None]:
    """A `with` in which what this thread prints is heard as the words of a stage."""
    before = _AT_WORK.begin(beside)
    try:
        yield
    finally:
        _AT_WORK.end(before)


def say(line: str) -> None:
    """Tell people a line, with the name of the stage that is at work in this thread, as if its network had said it."""
    listener = _AT_WORK.listener()
    if listener is not None:
        listener.hear(f"{line}\n")


def leave_file(name: str, content: bytes) -> None:
    """Leave a file with the stage that is at work in this thread; without one it is dropped."""
    listener = _AT_WORK.listener()
    if listener is not None:
        listener.leave(name, content)
