"""Imports libraries that read the working directory as if that were another one: it may be a stranger's run directory.

matplotlib reads its `matplotlibrc`, of which older versions evaluate a line. The dynamic loader looks there for
`libcuda.so.1`, because NVIDIA's libcusparseLt, which torch loads, has an empty entry in its RUNPATH.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

LIBRARIES = ("torch", "matplotlib")


def import_elsewhere() -> None:
    """From here on, execute the modules of `LIBRARIES` in the root of the file system; those that are imported stay."""
    if not any(isinstance(finder, _Elsewhere) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Elsewhere())


class _Elsewhere(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in LIBRARIES else None
        return None if spec is None else _executed_elsewhere(spec)


def _executed_elsewhere(spec: ModuleSpec) -> ModuleSpec:
    assert spec.loader is not None
    execute = spec.loader.exec_module

    def exec_module(module: ModuleType) -> None:
        with _working_directory("/"):
            execute(module)

    spec.loader.exec_module = exec_module  # type: ignore[method-assign]
    return spec


@contextmanager
def _working_directory(folder: str) -> Iterator[None]:
    before = None
    with suppress(OSError):  # it may be gone, or closed to this user
        before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        os.chdir(folder)
    try:
        yield
    finally:
        if before is not None:
            os.fchdir(before)
            os.close(before)
