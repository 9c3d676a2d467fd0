"""Each pinned run is trained once for all tests that look at it."""

from collections.abc import Callable
from functools import cache

import pytest
import runs
from comparison import Outcome

REPORT = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = []


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.stash[REPORT]:
        terminalreporter.section("golden fixtures rewritten")
        for line in config.stash[REPORT]:
            terminalreporter.write_line(line)


@pytest.fixture
def rewriting(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--rewrite-golden")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a line to what is printed at the end."""
    return request.config.stash[REPORT].append


@pytest.fixture(scope="session")
def outcome_of() -> Callable[[str], Outcome]:
    return cache(lambda run: runs.train(runs.RUNS[run]))
