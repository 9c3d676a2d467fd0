"""Imports point one way, and only the Ray engine knows of Ray."""

import ast
from pathlib import Path

import pytest

import noprop_dist

ROOT = Path(noprop_dist.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# From the lowest layer to the highest; a package may import from those before it, and from itself.
LAYERS = [
    *("errors", "random_streams", "torch_random", "diffusion", "config", "models", "data", "inference"),
    *("storage", "training", "metrics", "engines", "baseline", "report", "bench", "cli"),
]


def imported(file):
    """Full names of the modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{node.module}.{node.names[0].name}" if node.module == "noprop_dist" else node.module


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_imports_only_from_its_own_layer_and_below(file):
    layer = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if layer.startswith("__"):
        return
    for name in imported(file):
        package, *rest = name.split(".")
        if package == "noprop_dist" and rest and rest[0] != "__version__":
            assert LAYERS.index(rest[0]) <= LAYERS.index(layer), f"{layer} must not import {name}"
        if package == "ray":
            assert layer in ("engines", "baseline"), f"{layer} must not import ray"


def test_the_mathematics_knows_no_configuration_objects():
    for file in (ROOT / "diffusion").glob("*.py"):
        names = {name.split(".")[0] for name in imported(file)} - {"noprop_dist"}
        assert names <= {"collections", "dataclasses", "itertools", "math", "numpy", "statistics", "torch", "typing"}
