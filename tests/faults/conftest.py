"""A Ray cluster of several nodes on this machine, and runs of the command line on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noprop_dist.bench.faults import fingerprints
from noprop_dist.bench.live_run import LiveRun
from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.loopback import LoopbackCluster, loopback_cluster
from noprop_dist.engines.sequential import train_sequentially
from noprop_dist.storage.run_directory import RunDirectory
from noprop_dist.training.preparation import prepare


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """`networks.py` beside this file can be imported by every process that the test starts, and by the test."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.fixture
def cluster(importable: None) -> Iterator[LoopbackCluster]:
    """Begins with one node of one core."""
    with loopback_cluster(1) as nodes:
        yield nodes


@pytest.fixture
def live(cluster: LoopbackCluster, tmp_path: Path) -> Iterator[Callable[..., LiveRun]]:
    """Starts a run on that cluster."""
    runs: list[LiveRun] = []

    def start(settings: list[str]) -> LiveRun:
        runs.append(LiveRun(tmp_path / "live", settings, cluster))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


@pytest.fixture
def undisturbed(importable: None, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Fingerprints that the sequential engine gives for the same settings."""

    def train(settings: list[str]) -> dict[str, str]:
        setup, data = prepare(load_config("digits", None, [*settings, "engine.kind=sequential"]))
        directory = RunDirectory(str(tmp_path / "sequential"))
        directory.create(setup.config, setup.facts)
        train_sequentially(setup, data, directory, lambda _: None)
        return fingerprints(directory)

    return train
