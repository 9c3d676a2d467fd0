"""The console of every command: what it prints is text, whatever names of files and classes are in it."""

import os
import sys
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from noprop_dist.printable import printable, without_secrets

WIDE = 10_000
"""Columns of what is no terminal."""


def shown(text: str) -> str:
    """Text as the terminal may have it: no control character but tab and newline, no secret of a URI."""
    return printable(without_secrets(text), keep="\n\t")


def print_anywhere() -> None:
    """Let standard output take every character: what its encoding lacks is written out, as `printable` does it."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # standard error does so by itself
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


class LastingOutput:
    """Standard error for what has to go on: a line that cannot be written is lost, and nothing else.

    Attributes:
        reader_is_gone: whether it is a pipe, and nobody reads it any more.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream or open(os.devnull, "w")  # noqa: PTH123, SIM115 (it was closed before the start)
        self.reader_is_gone = False

    def write(self, text: str) -> int:
        """Write, or do nothing."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self.reader_is_gone = True
        except OSError:  # the terminal is gone, the disk of a log is full
            pass
        return len(text)

    def flush(self) -> None:
        """Flush, or do nothing."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self.reader_is_gone = True
        except OSError:
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Terminal(Console):
    """A console that finds no markup, emoji or colour in text, and shows nothing that a terminal would obey.

    In a file or a pipe tables are as wide as they need to be, unless COLUMNS says how wide.

    Args:
        **options: as of rich's console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "soft_wrap": True, **options}, markup=False, emoji=False)
        if not (self.is_terminal or "width" in options or "COLUMNS" in os.environ):
            self.width = WIDE

    def render_str(self, text: str, **options: Any) -> Text:  # cells of tables come here, too
        """As the base class has it."""
        return super().render_str(shown(text), **options)


class FittingTable(Table):
    """A table that loses nothing on a narrow terminal: where its words do not fit, it is shown as a list.

    There each row is a line of its first cell, and a line for every other cell below it.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As the base class has it."""
        if Measurement.get(console, options.update(width=WIDE), self).minimum <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        yield from [] if self.title is None else [console.render_str(str(self.title))]
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            for number, (column, cell) in enumerate(zip(self.columns, cells, strict=True)):
                line = f"{column.header}: {cell}" if column.header else str(cell)
                yield Text(shown(f"  {line}" if number else line), overflow="fold", no_wrap=False)
