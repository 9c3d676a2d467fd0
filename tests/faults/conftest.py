"""A Ray cluster of several nodes on this machine, and runs of the command line on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noprop_dist.bench.live_run import LiveRun
from noprop_dist.engines.ray.loopback import LoopbackCluster, loopback_cluster


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
