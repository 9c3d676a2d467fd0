"""What names of files and classes do to a terminal: nothing."""

import errno
import io
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.table import Table
from typer.main import get_command

from noprop_dist.cli.app import app, main
from noprop_dist.cli.progress import LineView, progress_view
from noprop_dist.cli.terminal import FittingTable, Terminal
from noprop_dist.cli.training import watched
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
    with progress_view(Terminal(stderr=True)) as view:
        assert isinstance(view, LineView)
        view.say("run directory: /[/b]\x1b s3://KEY:SECRET@bucket/run")
    assert capsys.readouterr().err == "run directory: /[/b]\\x1b s3://bucket/run\n"


def printed(what: object, width: int = 60) -> str:
    terminal = Terminal(file=io.StringIO(), width=width)
    terminal.print(what)
    return terminal.file.getvalue()


class Failing(io.StringIO):
    """A stream that cannot be written any more."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, _):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_training_outlives_a_terminal_that_is_gone_and_a_log_on_a_full_disk(monkeypatch, number):
    monkeypatch.setattr("sys.stderr", Failing(number))

    def train(watcher):
        watcher.say("starting Ray")
        return SimpleNamespace(stopped=watcher.stopped(), evaluation=None)

    assert not watched("run", train).stopped


def test_a_training_whose_reader_has_gone_is_saved_and_ends_as_by_a_signal(monkeypatch):
    monkeypatch.setattr("sys.stderr", Failing(errno.EPIPE))

    def train(watcher):
        watcher.say("starting Ray")
        return SimpleNamespace(stopped=watcher.stopped(), evaluation=None)

    with pytest.raises(SystemExit) as end:
        watched("run", train)
    assert end.value.code == 128 + signal.SIGPIPE


def test_what_a_terminal_cannot_encode_is_written_out_on_standard_output(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", output)
    with pytest.raises(SystemExit):
        main(["inspect", "größe"])
    Terminal().print("û …")
    output.flush()
    assert output.buffer.getvalue() == b"\\xfb \\u2026\n"


def two_rows():
    table = FittingTable(title="checkpoint of step 2")
    for column in ("", "sha256 of the weights"):
        table.add_column(column)
    table.add_row("block 1", "0123456789abcdef" * 4)
    table.add_row("classifier", "fedcba9876543210" * 4)
    return table


def test_a_table_that_does_not_fit_is_a_list_and_loses_nothing():
    lines = printed(two_rows(), width=40).splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[:2] == ["checkpoint of step 2", "block 1"]
    assert "".join(lines[3:5]) == "0123456789abcdef" * 4


def test_in_a_pipe_no_fingerprint_is_cut(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    terminal = Terminal(file=io.StringIO())
    terminal.print(two_rows())
    assert f"│ {'0123456789abcdef' * 4} │" in terminal.file.getvalue()


def commands_of(group, *path):
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands_of(command, *path, name)


def test_help_loses_no_word_on_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    for path, command in commands_of(get_command(app)):
        with pytest.raises(SystemExit):
            main([*path, "--help"])
        lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        assert max(map(len, lines)) <= 40, path
        text = "".join("".join(lines).split())
        told = [command.help, *(each.help for each in command.params if getattr(each, "help", None))]
        told += [each.help for each in getattr(command, "commands", {}).values()]
        assert [each for each in told if "".join(each.split()) not in text] == [], path


def test_a_command_whose_output_goes_to_a_full_disk_names_standard_output(small_run, capsys, monkeypatch):
    run = str(small_run())
    capsys.readouterr()
    for command in (["--version"], ["--help"], ["inspect", run], ["inspect", run, "--json"]):
        with suppress(OSError), Path("/dev/full").open("w") as full:  # closing it fails, too
            monkeypatch.setattr("sys.stdout", full)
            with pytest.raises(SystemExit) as end:
                main(command)
        said = capsys.readouterr().err
        told = "noprop-dist: standard output cannot be written: No space left on device\n"
        assert (end.value.code, said) == (2, told)


def ended(redirections, *arguments):
    """Exit code and both outputs of a command whose streams a shell redirects."""
    command = shlex.join([sys.executable, "-m", "noprop_dist", *arguments])
    done = subprocess.run(["sh", "-c", f"{command} {redirections}"], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_standard_output_that_was_closed_is_named():
    told = "noprop-dist: standard output cannot be written: Bad file descriptor\n"
    assert ended(">&-", "--version") == (2, "", told)


@pytest.mark.parametrize("redirection", ["2>/dev/full", pytest.param("2>&-", marks=pytest.mark.slow)])
def test_a_standard_error_that_takes_nothing_changes_no_exit_code(redirection):
    assert ended(redirection, "inspect", "nowhere") == (2, "", "")


def test_a_file_never_gets_the_number_of_a_closed_stream(tmp_path):
    code = """
import os
from noprop_dist.cli.terminal import standard_streams
with standard_streams(), open("file", "w") as file:
    os.write(int(os.environ["OUT"]), str(file.fileno()).encode())
"""
    command = ["sh", "-c", f"exec {shlex.join([sys.executable, '-c', code])} <&- >&- 2>&-"]
    reading, writing = os.pipe()
    subprocess.run(command, pass_fds=[writing], env={**os.environ, "OUT": str(writing)}, cwd=tmp_path, check=True)
    assert int(os.read(reading, 9)) > 2
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["inspect", "--help"]])
def test_a_pipe_that_nobody_reads_ends_a_command_as_sigpipe_does(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "noprop_dist", *arguments], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")
