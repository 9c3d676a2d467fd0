"""What tests share: a small configuration, and one Ray for all that need one.

What takes seconds to import is imported where it is used: the process that hands out the tests never needs it.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from noprop_dist.config.schema import RunConfig
    from noprop_dist.data.dataset import DataSet
    from noprop_dist.storage.run_directory import RunDirectory
    from noprop_dist.training.messages import RunOutcome
    from noprop_dist.training.setup import RunSetup

os.environ.pop("RAY_ADDRESS", None)

SMALL = ["blocks.count=3", "blocks.network={kind: mlp, width: 16, depth: 1}", "training.max_steps=12", "metrics.port=0"]
"""Digits on three tiny blocks: a whole run takes a fraction of a second."""


def pytest_addoption(parser: pytest.Parser) -> None:
    # Here and not in golden/, because pytest reads the options of the outermost conftest alone.
    parser.addoption("--rewrite-golden", action="store_true", help="pin the runs of tests/golden as they are now")


@pytest.hookimpl(tryfirst=True)  # before those that are `slow` are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "ray_here" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # a million objects of the libraries, which every collection would look through
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What this machine has trained with is noted here, and not in the user's home."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True, scope="session")
def unsynced() -> None:
    """No test cuts the power, so none waits for the disk."""
    from noprop_dist.storage.system import ThisSystem

    ThisSystem.fsync = staticmethod(lambda fd: None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bits depend on the number of threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_config() -> Callable[..., RunConfig]:
    from noprop_dist.config.layers import load_config

    return lambda *settings: load_config("digits", None, [*SMALL, *settings])


@pytest.fixture
def small_run(small_config: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., RunDirectory]:
    """A finished run of the sequential engine."""
    from noprop_dist.api import train
    from noprop_dist.storage.run_directory import RunDirectory

    def run(*settings: str, name: str = "run") -> RunDirectory:
        train(small_config("engine.kind=sequential", *settings), str(tmp_path / name))
        return RunDirectory(str(tmp_path / name))

    return run


@pytest.fixture(scope="session")
def trained_once(
    small_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The folder of a finished run, the same one for everybody who asks for these settings."""
    from noprop_dist.api import train

    @cache
    def run(*settings: str) -> Path:
        folder = tmp_path_factory.mktemp("once") / "run"
        train(small_config("engine.kind=sequential", *settings), str(folder))
        return folder

    return run


@pytest.fixture
def copied_run(trained_once: Callable[..., Path], tmp_path: Path) -> Callable[..., RunDirectory]:
    """As `small_run`, but trained once for all tests of a process: where how it is trained is not what is tested."""
    from noprop_dist.storage.run_directory import RunDirectory

    def run(*settings: str, name: str = "run") -> RunDirectory:
        return RunDirectory(str(shutil.copytree(trained_once(*settings), tmp_path / name)))

    return run


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report takes seconds to draw its pictures; here they are empty files, where only its words are looked at."""
    monkeypatch.setattr("noprop_dist.reporting.run_report._png", lambda draw: b"")


@pytest.fixture(scope="session")
def sequential(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a finished run of the sequential engine on digits, with some settings."""
    from noprop_dist.api import train
    from noprop_dist.config.layers import load_config

    def run(*settings: str) -> Path:
        folder = tmp_path_factory.mktemp("sequential") / "run"
        train(load_config("digits", None, [*settings, "engine.kind=sequential"]), str(folder))
        return folder

    return run


@pytest.fixture
def small_setup(small_config: Callable[..., RunConfig]) -> tuple[RunSetup, DataSet]:
    from noprop_dist.training.setup import prepare

    return prepare(small_config())


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A Ray of two cores that every test may use; runs do not meet, each has a namespace of its own."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def run_here(ray_here: None) -> Callable[..., RunOutcome]:
    """A run whose coordinator lives in this process, where its errors and its coverage can be seen."""
    from noprop_dist.engines.ray.coordinator import Coordinator

    def run(config: RunConfig, directory: str, resume: bool = False) -> RunOutcome:
        return Coordinator(config, directory, resume).run()

    return run
