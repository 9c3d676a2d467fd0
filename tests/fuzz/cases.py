"""One case: a command in this process, with all that it may touch in a folder of its own.

CASE/own/       what the command may change
CASE/beside/    what it must leave as it is, and so must everything else in CASE
"""

import contextlib
import io
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

from noprop_dist.cli.app import main

TINY = [
    *(
        "blocks.count=2",
        "blocks.network={kind: mlp, width: 4, depth: 1}",
        "training.max_steps=1",
        "training.batch_size=2",
    ),
    "engine.kind=sequential",
]
"""A run of one step on data of any size."""
SECONDS = 5.0
LONG = "long"
"""The profile that goes on: `pytest tests/fuzz --hypothesis-profile=long`."""
READS_ONLY = ("inspect", "compare", "evaluate", "predict", "plan")

settings.register_profile(
    "gate", derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile(LONG, settings.get_profile("gate"), derandomize=False, max_examples=5000)


class Hang(BaseException):
    """The case is not done in time; no `except Exception` on the way holds it up."""


@dataclass(frozen=True)
class Outcome:
    """What a command gave back."""

    code: int
    out: str
    err: str


class Case:
    """The folders of one case."""

    def __init__(self, root: Path) -> None:
        self.own, self.beside = root / "own", root / "beside"
        for folder in (self.own, self.beside):
            folder.mkdir()
        (self.beside / "kept.txt").write_text("kept")
        self._root = root

    def run(self, *arguments: str) -> Outcome:
        """Run `noprop-dist ARGUMENTS` in `own`, and check all that holds for whatever it is given."""
        reads_only = arguments[0] in READS_ONLY
        before = self._listing(reads_only)
        outcome = _run(arguments, self.own)
        assert self._listing(reads_only) == before, f"{arguments}: changed what is not its own"
        _check(outcome)
        return outcome

    def _listing(self, everything: bool) -> dict[str, Any]:
        return dict(_files_below(self._root, None if everything else self.own))


def search(case: Callable[..., None], examples: int, **strategies: Any) -> None:
    """Try a case with so many examples, always the same ones; with the profile `long` with many at random.

    Args:
        case: takes a `Case`, and one value of each strategy.
        examples: to try.
        strategies: of hypothesis.
    """
    long = settings.get_current_profile_name() == LONG
    chosen = settings.get_profile(LONG) if long else settings(settings.get_profile("gate"), max_examples=examples)

    @chosen
    @given(**strategies)
    def one(**values: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="case-") as root:
            try:
                case(Case(Path(root)), **values)
            finally:
                _make_deletable(Path(root))

    one()


def _run(arguments: tuple[str, ...], folder: Path) -> Outcome:
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(folder):
        try:
            with _in_time(arguments):
                main(list(arguments))
        except SystemExit as end:
            code = end.code or 0
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Outcome(code, *texts)


@contextlib.contextmanager
def _in_time(arguments: tuple[str, ...]) -> Iterator[None]:
    """Raise AssertionError where a case takes longer. A signal of a thread ends system calls that wait, too."""

    def stop(*_: Any) -> None:
        raise Hang

    main_thread, before, done = threading.get_ident(), signal.signal(signal.SIGUSR1, stop), threading.Event()
    clock = _Clock()

    def watch() -> None:
        while not done.wait(0.2):
            if clock.seconds() > SECONDS:
                signal.pthread_kill(main_thread, signal.SIGUSR1)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except Hang:
        raise AssertionError(f"{arguments}: not done in {SECONDS:g} s") from None
    finally:
        done.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


class _Clock:
    """Seconds that this thread has worked or waited since, without those in which other processes had all cores."""

    def __init__(self) -> None:
        self._schedule = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._begun = self._now()

    def seconds(self) -> float:
        return self._now() - self._begun

    def _now(self) -> float:
        return time.monotonic() - int(self._schedule.read_text().split()[1]) / 1e9


def _check(outcome: Outcome) -> None:
    assert outcome.code in (0, 1, 2), f"exit code {outcome.code}"
    shown = outcome.out + outcome.err
    assert "Traceback" not in shown, shown
    unwanted = ("Cc", "Cs") if "Usage: " in outcome.err else ("Cc", "Cs", "Cf")  # typer shows an option as it was typed
    obeyed = sorted({each for each in shown if each not in "\n\t" and unicodedata.category(each) in unwanted})
    assert not obeyed, f"{obeyed} in {shown!r}"
    if outcome.code:
        _, found, sentence = outcome.err.rpartition("noprop-dist: ")
        assert found or "Usage: " in outcome.err, f"says nothing of itself: {outcome.err!r}"
        if found:
            assert sentence.strip(), "says nothing"
            assert sentence.count("\n") == 1, f"is not one line: {sentence!r}"
            assert len(sentence) < 2100, f"is {len(sentence)} characters long: {sentence[:400]!r}"


def _files_below(folder: Path, left_out: Path | None) -> Iterator[tuple[str, Any]]:
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if path == left_out:
            continue
        facts = entry.stat(follow_symlinks=False)
        content = path.read_bytes() if stat.S_ISREG(facts.st_mode) else b""
        yield entry.path, (facts.st_mode, facts.st_ino, content)
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(path, left_out)


def _make_deletable(root: Path) -> None:
    for folder, _, _ in os.walk(root):
        Path(folder).chmod(0o700)
    shutil.rmtree(root / "own", ignore_errors=True)
