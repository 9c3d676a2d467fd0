"""The harness itself: what a case must notice."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import cases
import pytest
from cases import Case


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def end(code: int, message: str = "") -> Callable[[list[str]], None]:
    def main(_: list[str]) -> None:
        sys.stderr.write(message)
        raise SystemExit(code)

    return main


@pytest.mark.parametrize(
    ("code", "message", "told"),
    [
        (3, "", "exit code 3"),
        (143, "", "exit code 143"),
        (2, "", "says nothing of itself"),
        (2, "noprop-dist: a\nb\n", "is not one line"),
        (2, "noprop-dist: \x1b[31m\n", "x1b"),
        (2, "noprop-dist: \u202ea\n", "u202e"),
        (2, "noprop-dist: " + "x" * 9999 + "\n", "characters long"),
        (1, "Traceback (most recent call last):\n", "Traceback"),
    ],
)
def test_an_exit_that_is_no_sentence_is_noticed(
    case: Case, monkeypatch: pytest.MonkeyPatch, code: int, message: str, told: str
) -> None:
    monkeypatch.setattr(cases, "main", end(code, message))
    with pytest.raises(AssertionError, match=told):
        case.run("train")


def test_an_error_that_gets_through_is_noticed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def main(_: list[str]) -> None:
        raise KeyError("x")

    monkeypatch.setattr(cases, "main", main)
    with pytest.raises(KeyError):
        case.run("train")


def test_a_wait_that_does_not_end_is_ended_and_noticed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(case.own / "pipe")
    monkeypatch.setattr(cases, "SECONDS", 0.1)
    monkeypatch.setattr(cases, "main", lambda _: (case.own / "pipe").read_bytes())
    with pytest.raises(AssertionError, match="not done in 0.1 s"):
        case.run("train")


@pytest.mark.parametrize(
    ("command", "file"),
    [("train", "../beside/kept.txt"), ("train", "../new"), ("resume", "../beside/new"), ("inspect", "new")],
)
def test_what_is_written_elsewhere_is_noticed(
    case: Case, monkeypatch: pytest.MonkeyPatch, command: str, file: str
) -> None:
    monkeypatch.setattr(cases, "main", lambda _: Path(file).write_text("x"))
    with pytest.raises(AssertionError, match="changed what is not its own"):
        case.run(command)


def test_a_command_that_ends_well_passes(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def main(_: list[str]) -> None:
        Path("new").write_text("x")
        print("done")
        raise SystemExit(0)

    monkeypatch.setattr(cases, "main", main)
    assert case.run("train").out == "done\n"
    monkeypatch.setattr(cases, "main", end(2, "noprop-dist: no\n"))
    assert case.run("inspect").code == 2
