"""When this process began, and what it did until it was ready: wall-clock times, so that those of several fit."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOTED: list[tuple[str, float, float]] = []
"""Names of phases of this process, and when they began and ended: Unix seconds."""


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Note how long what is done within the `with` takes."""
    began = time.time()
    try:
        yield
    finally:
        NOTED.append((name, began, time.time()))


def note_start(name: str) -> None:
    """Note what was done since the process began."""
    NOTED.append((name, process_began(), time.time()))


def take() -> list[tuple[str, float, float]]:
    """The phases since the last call."""
    taken = list(NOTED)
    NOTED.clear()
    return taken


def process_began() -> float:
    """When this process began, Unix seconds to a hundredth; 0 where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return 0.0
