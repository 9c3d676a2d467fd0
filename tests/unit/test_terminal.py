"""What names of files and classes do to a terminal: nothing."""

import io

import pytest
from rich.table import Table

from noprop_dist.cli.progress import LineView, progress_view
from noprop_dist.cli.terminal import Terminal
from noprop_dist.printable import printable

NAMES = ["[/b] run", "[red]x", ":dog:", "exp[lr=1e-3]", "größe 日本"]


@pytest.mark.parametrize("name", NAMES)
def test_text_is_printed_as_it_is(name):
    assert printed(name) == f"{name}\n"


@pytest.mark.parametrize("name", NAMES)
def test_so_is_text_in_tables_and_their_titles(name):
    table = Table(name, title=name)
    table.add_row(name)
    assert printed(table).count(name) == 3


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\x1b[2Jb", r"a\x1b[2Jb"), ("\x07\r\x9b", r"\x07\r\x9b"), ("\u202egpj", r"\u202egpj"), ("\udcff", r"\udcff")],
)
def test_what_a_terminal_would_obey_or_cannot_encode_is_written_out(name, shown):
    table = Table(name)
    assert printed(name) == f"{shown}\n"
    assert shown in printed(table)
    assert printable(f"{name}\n") == f"{shown}\\n"


def test_progress_lines_are_text_and_show_no_secret(capsys):
    with progress_view() as view:
        assert isinstance(view, LineView)
        view.say("run directory: /[/b]\x1b s3://KEY:SECRET@bucket/run")
    assert capsys.readouterr().err == "run directory: /[/b]\\x1b s3://bucket/run\n"


def printed(what: object) -> str:
    terminal = Terminal(file=io.StringIO(), width=60)
    terminal.print(what)
    return terminal.file.getvalue()
