"""The console of every command: what it prints is text, whatever names of files and classes are in it."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from noprop_dist.errors import UserError
from noprop_dist.printable import printable, without_secrets

WIDE = 10_000
"""Columns of what is no terminal."""


def shown(text: str) -> str:
    """Text as the terminal may have it: no control character but tab and newline, no secret of a URI."""
    return printable(without_secrets(text), keep="\n\t")


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let standard output and standard error fail as a command's should; see `ToldOutput` and `LastingOutput`.

    Standard output takes every character: what its encoding lacks is written out, as `printable` does it. Standard
    error does so by itself. A stream that was closed before the start stays closed: no file of ours gets its number,
    where a library's message would be written into it.
    """
    while (number := os.open(os.devnull, os.O_RDONLY)) < len(("input", "output", "error")):
        os.set_inheritable(number, True)
    os.close(number)
    before = sys.stdout, sys.stderr
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    told, lasting = ToldOutput(sys.stdout), LastingOutput.of(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, told), cast(TextIO, lasting)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        told.flush()  # while an error can still be told


class _Output:
    """A standard stream, of which `_failed` says what follows if it cannot be written."""

    def __init__(self, stream: IO[str] | None) -> None:
        # Where it was closed before the start, the stand-in fails as a closed one does.
        self._stream = stream or open(os.open(os.devnull, os.O_RDONLY), "w")  # noqa: PTH123, SIM115 (a descriptor)

    def write(self, text: str) -> int:
        """Write."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._failed(error)
        return len(text)

    def flush(self) -> None:
        """Flush."""
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _failed(self, error: OSError) -> None:
        raise NotImplementedError


class ToldOutput(_Output):
    """Standard output: what is asked for. If it cannot be written, the user is told.

    If it is a pipe that nobody reads any more, the command ends as if SIGPIPE had come: that is no mistake.
    """

    def _failed(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):  # which typer and rich would make an exit code 1 of
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # for what is left in the buffer
            raise SystemExit(128 + signal.SIGPIPE)
        raise UserError(f"standard output cannot be written: {error.strerror}") from None


class LastingOutput(_Output):
    """Standard error for what has to go on: a line that cannot be written is lost, and nothing else.

    Attributes:
        reader_is_gone: whether it is a pipe, and nobody reads it any more.
    """

    reader_is_gone = False

    @classmethod
    def of(cls, stream: IO[str] | None) -> "LastingOutput":
        """The stream itself if it is one already."""
        return stream if isinstance(stream, cls) else cls(stream)

    def _failed(self, error: OSError) -> None:
        self.reader_is_gone |= isinstance(error, BrokenPipeError)  # else a terminal is gone, the disk of a log full


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


def working(note: str) -> AbstractContextManager[object]:
    """A spinner on standard error for what takes a while; shows nothing if that is no terminal."""
    return Terminal(stderr=True).status(note)


class FittingTable(Table):
    """A table that loses nothing on a narrow terminal: where its words do not fit, it is shown as a list.

    There each row is a line of its first cell, and a line for every other cell below it.
    """

    def fits(self, console: Console, options: ConsoleOptions | None = None) -> bool:
        """Return True if it is shown as a table there."""
        options = options or console.options
        return Measurement.get(console, options.update(width=WIDE), self).minimum <= options.max_width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As the base class has it."""
        if self.fits(console, options):
            yield from super().__rich_console__(console, options)
            return
        yield from [] if self.title is None else [console.render_str(str(self.title))]
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            for number, (column, cell) in enumerate(zip(self.columns, cells, strict=True)):
                line = f"{column.header}: {cell}" if column.header else str(cell)
                yield Text(shown(f"  {line}" if number else line), overflow="fold", no_wrap=False)
