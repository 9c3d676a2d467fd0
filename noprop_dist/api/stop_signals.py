"""SIGINT, SIGTERM and SIGHUP ask a run to snapshot and end; a second SIGINT ends it at once."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Whether, and by which signal, this process was asked to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __call__(self) -> bool:
        """Return True if it was asked to stop."""
        return self.signal is not None


@contextmanager
def stop_signals(say: Callable[[str], None], asking: Sequence[signal.Signals] = ASKING) -> Iterator[StopRequest]:
    """Turn the signals into a `StopRequest` within a `with`. Outside the main thread none arrives.

    A signal that this process was started to ignore, as `nohup` has it, stays ignored.

    Args:
        say: told when the first signal comes.
        asking: the signals.

    Raises:
        KeyboardInterrupt: within the `with`, at the second SIGINT.
    """
    request = StopRequest()

    def handle(number: int, _: FrameType | None) -> None:
        if request.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if request.signal is None:
            request.signal = signal.Signals(number)
            say(f"{request.signal.name}: saving snapshots, then ending; Ctrl-C once more ends at once")

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    heeded = [number for number in asking if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupts() -> Sequence[signal.Signals]:
    """SIGINT, where Python would make a KeyboardInterrupt of it; nothing where somebody else takes it."""
    return [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
