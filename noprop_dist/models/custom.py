"""A user's own network, named by its import path or handed over in Python."""

import hashlib
import importlib
import inspect
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from torch import nn

from noprop_dist.errors import UserError
from noprop_dist.files import SENT_FOLDER
from noprop_dist.models.shapes import Shapes

FIELD = "blocks.network.path"
NetworkFactory = Callable[..., nn.Module]
"""Makes a block's network of `input_shape`, `classes`, `embedding_dim` and its arguments: a class or a function."""
_no_code_in: set[Path] = set()


@dataclass(frozen=True)
class Source:
    """The file of the module that defines a network's class.

    Attributes:
        module: its name; another than that of the import path where the class is imported from elsewhere.
        file: its place.
        sha256: of its content. What it imports in its turn is not in it.
    """

    module: str
    file: str
    sha256: str


def never_import_from(folder: Path) -> None:
    """Refuse networks that lie in a folder, for as long as this process lives."""
    _no_code_in.add(folder)


def custom_network(path: str, shapes: Shapes, arguments: Mapping[str, Any]) -> nn.Module:
    """Build the class at `path` as Class(input_shape=…, classes=…, embedding_dim=…, **arguments).

    Args:
        path: "package.module:Class".
        shapes: handed to the class as keyword arguments.
        arguments: further keyword arguments.

    Raises:
        UserError: the path does not import, is no torch.nn.Module, or its constructor fails.
    """
    network_class = _imported(path)
    if not (isinstance(network_class, type) and issubclass(network_class, nn.Module)):
        raise UserError(f"{FIELD}: {path!r} is no torch.nn.Module class")
    return _built(network_class, f"{FIELD}: {path!r}", shapes, arguments)


def given_network(factory: NetworkFactory, name: str, shapes: Shapes) -> nn.Module:
    """Build a network that was handed over in Python, as `custom_network` does.

    Raises:
        UserError: it fails, or returns no torch.nn.Module.
    """
    return _built(factory, f"network {name}", shapes, {})


def _built(factory: NetworkFactory, name: str, shapes: Shapes, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        network = factory(
            input_shape=shapes.input_shape,
            classes=shapes.classes,
            embedding_dim=shapes.embedding_dim,
            **arguments,
        )
    except (Exception, SystemExit) as error:
        raise UserError(f"{name} could not be built: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{name}: what was built is {type(network).__name__}, no torch.nn.Module")
    return network


def import_path(factory: NetworkFactory) -> str | None:
    """The path by which every process imports a class; None for what lives in one process alone.

    That is what is defined in a notebook or a main module, within a function, or is no class.
    """
    path = f"{getattr(factory, '__module__', None)}:{getattr(factory, '__qualname__', '')}"
    if path.startswith("__main__:"):
        return None
    try:
        module, _ = _parts(path)
    except UserError:
        return None
    found = isinstance(factory, type) and is_at(factory, path)
    file = getattr(sys.modules.get(module), "__file__", None)
    here = file is not None and _lies_in(file, Path(os.getcwd()))  # noqa: PTH109
    return path if found and (here or is_installed(file)) else None


def is_at(factory: NetworkFactory, path: str) -> bool:
    """Return True if an import of "package.module:Class" has given this process that class. Imports nothing."""
    module, _, name = path.partition(":")
    return getattr(sys.modules.get(module), name, None) is factory


def is_installed(file: str | None) -> bool:
    """Return True if the file of a module is one of Python's own, installed, or on PYTHONPATH."""
    if file is None:
        return True
    paths = [sysconfig.get_path("stdlib"), *site.getsitepackages(), site.getusersitepackages()]
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return any(_lies_in(file, Path(folder)) for folder in paths)


def source_of(path: str) -> Source | None:
    """The source of the class at `path`, which is imported; None if its module has none, or it cannot be read.

    Raises:
        UserError: the path does not import.
    """
    module = sys.modules.get(getattr(_imported(path), "__module__", ""))
    with suppress(OSError, TypeError):  # TypeError: of a module that is built in
        file = inspect.getsourcefile(module) if module is not None else None
        if module is not None and file is not None:
            return Source(module.__name__, file, hashlib.sha256(Path(file).read_bytes()).hexdigest())
    return None


def _imported(path: str) -> Any:
    locate(path)
    module_name, class_name = _parts(path)
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:
        raise UserError(f"{FIELD}: {path!r} cannot be imported: {type(error).__name__}: {error}") from error


def locate(path: str) -> str:
    """The file that an import of "package.module:Class" would run, found without running anything.

    Raises:
        UserError: there is no such module, or it or a package around it lies where no code may lie.
    """
    module_name, _ = _parts(path)
    _search_working_directory_last()
    names, folders, file = module_name.split("."), None, ""
    for depth in range(1, len(names) + 1):
        spec = _spec(".".join(names[:depth]), folders)
        if spec is None:
            _refuse_if_left_out(path, names[0])
            raise UserError(f"{FIELD}: {path!r} cannot be imported: there is no module {'.'.join(names[:depth])}")
        folders = list(spec.submodule_search_locations or ())
        file = spec.origin if spec.has_location and spec.origin else ""  # built-in modules and namespaces have none
        for place in filter(None, (file, *folders)):
            _refuse_if_forbidden(path, place)
    return file


def _parts(path: str) -> tuple[str, str]:
    module_name, colon, class_name = path.partition(":")
    if not (colon and class_name and all(part.isidentifier() for part in module_name.split("."))):
        raise UserError(f"{FIELD}: {path!r} is no import path; write package.module:Class")
    return module_name, class_name


def _search_working_directory_last() -> None:
    sent = [each.removeprefix(SENT_FOLDER) for each in sys.path if each.startswith(SENT_FOLDER)]
    for folder in (*sent, os.getcwd()):  # noqa: PTH109
        if folder not in sys.path and not any(_lies_in(folder, forbidden) for forbidden in _no_code_in):
            sys.path.append(folder)


def _spec(name: str, folders: Sequence[str] | None) -> ModuleSpec | None:
    """What `import` would find. `importlib.util.find_spec` would run the packages around a module."""
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__spec__ is not None:
        return loaded.__spec__  # its code has run
    if folders is not None:
        return PathFinder.find_spec(name.rpartition(".")[2], folders)
    found = (finder.find_spec(name, None) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def _refuse_if_left_out(path: str, name: str) -> None:
    """Say why a module is not found that lies in the working directory, where that is no place for code."""
    if (spec := PathFinder.find_spec(name, [os.getcwd()])) is not None:  # noqa: PTH109
        for place in filter(None, (spec.origin, *(spec.submodule_search_locations or ()))):
            _refuse_if_forbidden(path, place)


def _refuse_if_forbidden(path: str, place: str) -> None:
    for folder in _no_code_in:
        if _lies_in(place, folder):
            raise UserError(f"{FIELD}: {path!r} lies in the run directory {folder}, from which no code is ever run")


def _lies_in(place: str, folder: Path) -> bool:
    """Return True if a place is in a folder, by its own name or once all links are resolved."""
    return any(_is_same(parent, folder) for parent in _parents(Path(place).absolute()))


def _parents(place: Path) -> Iterator[Path]:
    for each in (place, place.resolve()):
        yield from (each, *each.parents)


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.samefile(other)
    return False
