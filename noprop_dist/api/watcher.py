"""Whoever watches a run while it trains."""

import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from noprop_dist.printable import printable
from noprop_dist.training.progress import RunProgress

LINE_SECONDS = 10.0
"""At most one line of progress in so many seconds, and one for every piece of news."""


def silent(_: Any) -> None:
    return None


def as_warning(line: str) -> None:
    """Tell a line as a warning of Python, about the line that called this package."""
    package = __name__.partition(".")[0]
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_stack(sys._getframe())]
    own = [level for level, name in enumerate(modules) if name.partition(".")[0] == package]
    warnings.warn(printable(line), stacklevel=max(own) + 2)


@dataclass(frozen=True)
class Watcher:
    """Callbacks of whoever watches a run while it trains.

    Attributes:
        on_progress: told how far the run is, about twice a second.
        say: told lines about what goes on around the run.
        stopped: asked about twice a second; once it says yes, every stage is snapshotted and the run ends.
        warn: told what the user should know and may not expect, such as what was left out of the data.
    """

    on_progress: Callable[[RunProgress], None] = silent
    say: Callable[[str], None] = silent
    stopped: Callable[[], bool] = field(default=lambda: False)
    warn: Callable[[str], None] = silent

    @staticmethod
    def on_stderr() -> "Watcher":
        """Lines on standard error."""
        return Watcher(ProgressLines(_to_stderr).show, _to_stderr, warn=_to_stderr)


def _to_stderr(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


class ProgressLines:
    """Tells how far a run is: a line every 10 s, and one for each piece of news.

    Args:
        say: is given the lines.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._news_shown = 0
        self._line = ""
        self._last = 0.0

    def show(self, progress: RunProgress) -> None:
        """Say the news, and how far the run is if it is time for that."""
        now = time.monotonic()
        told = progress.news_told
        unseen = told - self._news_shown if told >= self._news_shown else told  # a new coordinator tells anew
        for line in progress.news[max(0, len(progress.news) - unseen) :]:
            self._say(line)
        self._news_shown = told
        line = progress.line()
        due = now - self._last >= LINE_SECONDS or progress.fraction == 1
        if due and line != self._line:
            self._last, self._line = now, line
            self._say(line)
