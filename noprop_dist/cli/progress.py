"""Live progress: a table in a terminal, plain lines elsewhere; always on standard error."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from noprop_dist.cli.terminal import Terminal, shown
from noprop_dist.training.progress import RunProgress

LINE_SECONDS = 10.0
"""Without a terminal, at most one line in so many seconds, and one for every piece of news."""

NEWS_LINES = 4
NARROW = 60
MAX_ROWS = 32
"""More stages than this are shown as a summary: a terminal is only so high."""


class ProgressView(Protocol):
    """Shows a run while it goes on."""

    def say(self, note: str) -> None:
        """Show a line for people, such as what a run waits for before there is any progress."""

    def warn(self, note: str) -> None:
        """Show a line that stays."""

    def show(self, progress: RunProgress) -> None:
        """Show how far the run is."""


@contextmanager
def progress_view(console: Terminal) -> Iterator[ProgressView]:
    """The view that fits a console."""
    if not console.is_terminal:
        yield LineView(console)
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield TableView(live)


class TableView:
    """A row per block, redrawn in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def say(self, note: str) -> None:
        """Show a note in place of the table."""
        self._live.update(Text(shown(f"{note} …"), style="dim"))

    def warn(self, note: str) -> None:
        """Print a line above the table."""
        self._live.console.print(note, soft_wrap=True, markup=False, style="yellow")

    def show(self, progress: RunProgress) -> None:
        """Redraw."""
        self._live.update(progress_table(progress, self._live.console.width))


class LineView:
    """A line every 10 s and one for each piece of news, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._news_shown = 0
        self._line = ""
        self._last = 0.0

    def say(self, note: str) -> None:
        """Print a note."""
        self._console.print(note)

    def warn(self, note: str) -> None:
        """Print a note."""
        self._console.print(note, soft_wrap=True, markup=False, style="yellow")

    def show(self, progress: RunProgress) -> None:
        """Print news, and a line if it is time for one."""
        now = time.monotonic()
        told = progress.news_told
        unseen = told - self._news_shown if told >= self._news_shown else told  # a new coordinator tells anew
        for line in progress.news[max(0, len(progress.news) - unseen) :]:
            self.say(line)
        self._news_shown = told
        line = progress_line(progress)
        due = now - self._last >= LINE_SECONDS or progress.fraction == 1
        if due and line != self._line:
            self._last, self._line = now, line
            self.say(line)


def progress_line(progress: RunProgress) -> str:
    """`31% done: slowest block at step 120, fastest at step 136 of 400; 160 block-steps/s, loss …, 20 s left`."""
    done = f"{int(100 * progress.fraction)}% done: {_where(progress)}"  # rounded down: 100% is the end
    if progress.waits_for is not None:
        return f"{done}; {progress.waits_for}"
    losses = [stage.loss for stage in progress.blocks if stage.loss is not None]
    loss = f"loss {_range(f'{min(losses):.3g}', f'{max(losses):.3g}')}, " if losses else ""
    return f"{done}; {progress.block_steps_per_second:.0f} block-steps/s, {loss}{_left(progress)}"


def _where(progress: RunProgress) -> str:
    steps, total = [stage.step for stage in progress.blocks], progress.total_steps
    if min(steps) < max(steps):
        return f"slowest block at step {min(steps)}, fastest at step {max(steps)} of {total}"
    return f"{'all blocks at ' if len(steps) > 1 else ''}step {steps[0]} of {total}"


def _range(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def progress_table(progress: RunProgress, width: int = 80) -> Group:
    """The whole picture: a row per stage, a bar, and the latest news; a narrow terminal gets no rates of stages."""
    wide = width >= NARROW
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for column in ("", "step", "loss", *(["block-steps/s"] if wide else []), "state"):
        table.add_column(column, justify="left" if column in ("", "state") else "right", overflow="fold")
    for stage in progress.stages if len(progress.stages) <= MAX_ROWS else progress.stages[-1:]:
        loss = "" if stage.loss is None else f"{stage.loss:.4g}"
        rate = f"{stage.steps_per_second:.1f}" if stage.state == "training" else ""
        rates = [rate] if wide else []
        table.add_row(stage.stage.name, f"{stage.step}/{progress.total_steps}", loss, *rates, stage.state)
    bar = Padding(ProgressBar(total=1.0, completed=progress.fraction, width=60), 0)  # a bare bar ends without a newline
    news = Text(shown("\n".join(progress.news[-NEWS_LINES:])), style="dim")
    return Group(table, bar, Text(progress_line(progress)), news)


def _left(progress: RunProgress) -> str:
    if progress.remaining_seconds is None:
        return "time left unknown"
    minutes, seconds = divmod(round(progress.remaining_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min left"
        if hours
        else f"{minutes} min {seconds} s left"
        if minutes
        else f"{seconds} s left"
    )
