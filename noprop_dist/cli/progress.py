"""Live progress: a table in a terminal, plain lines elsewhere; always on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from noprop_dist.api import ProgressLines, RunProgress
from noprop_dist.cli.terminal import Terminal, shown

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
        self._lines = ProgressLines(self.say)

    def say(self, note: str) -> None:
        """Print a note."""
        self._console.print(note)

    def warn(self, note: str) -> None:
        """Print a note."""
        self._console.print(note, soft_wrap=True, markup=False, style="yellow")

    def show(self, progress: RunProgress) -> None:
        """Print news, and a line if it is time for one."""
        self._lines.show(progress)


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
    return Group(table, bar, Text(progress.line()), news)
