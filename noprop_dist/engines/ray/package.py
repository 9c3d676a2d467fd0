"""The folder that is packed and sent with a job: what is left out of it, and how large the rest is."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ray._private.runtime_env import packaging

CACHES = [".git", ".venv", ".*_cache", "**/__pycache__", "*.egg-info", "build", "dist", "docs", "tests"]
SECRETS = ["deploy/secrets", "deploy/data", ".env"]
RESULTS = ["/data", "/runs"]
"""Data, which torchvision downloads there by default, and run directories: the nodes have them elsewhere."""
NOT_SENT = [*CACHES, *SECRETS, *RESULTS]
LARGE = 20_000_000
"""Bytes of a package that people are told of, with the largest of what is in it."""
LARGEST_TOLD = 3


@dataclass(frozen=True)
class Package:
    """What is sent.

    Attributes:
        folder: that is packed.
        excludes: patterns of what is left out, as .gitignore has them.
        sizes: bytes of each file, by its path in the folder.
    """

    folder: Path
    excludes: Sequence[str]
    sizes: dict[str, int]

    @property
    def told(self) -> str | None:
        """What people are told of a large package before it is sent; None of a small one."""
        total = sum(self.sizes.values())
        if total < LARGE:
            return None
        largest = ", ".join(f"{name} ({_mb(size)})" for name, size in _by_place(self.sizes).most_common(LARGEST_TOLD))
        return (
            f"{self.folder}: {_mb(total)} are packed and sent, the largest are {largest}. Ray takes "
            f"{_mb(packaging.GCS_STORAGE_MAX_SIZE)}, packed; what .gitignore or .rayignore names is not sent"
        )


def package_of(folder: Path) -> Package:
    """What is sent of a folder: all but caches, secrets, data, run directories and what its .gitignore names."""
    found = _sent(folder, NOT_SENT)
    runs = sorted({parent for path in found if (parent := _run_around(folder, path)) is not None})
    excludes = [*NOT_SENT, *(f"/{_escaped(run)}" for run in runs)]
    kept = {path: size for path, size in found.items() if _run_around(folder, path) is None}
    return Package(folder, excludes, kept)


def _sent(folder: Path, excludes: list[str]) -> dict[str, int]:
    """Bytes of every file that Ray would send: it walks with Ray's own rules."""
    sizes: dict[str, int] = {}

    def see(path: Path) -> None:
        if path.is_file():
            sizes[str(path.relative_to(folder))] = path.stat().st_size

    rules = [packaging._get_excludes(folder, excludes)]
    packaging._dir_travel(folder, rules, see, include_gitignore=True, logger=logging.getLogger(__name__))
    return sizes


def _run_around(folder: Path, path: str) -> str | None:
    """The run directory that a file is in, as a path in the folder; None if it is in none."""
    for parent in Path(path).parents:
        if (
            parent != Path()
            and (folder / parent / "checkpoints").is_dir()
            and (folder / parent / "config.yaml").is_file()
        ):
            return str(parent)
    return None


def _by_place(sizes: dict[str, int]) -> Counter[str]:
    """Bytes by the first two parts of a path, where people look for what is large."""
    places = Counter[str]()
    for path, size in sizes.items():
        places["/".join(Path(path).parts[:2])] += size
    return places


def _escaped(path: str) -> str:
    return re.sub(r"([\\*?\[\]!# ])", r"\\\1", path)


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
