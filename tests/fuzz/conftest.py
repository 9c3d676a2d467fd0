"""Small finished runs and small data, made once; every case damages a copy."""

import socket
from pathlib import Path
from typing import Any, NoReturn

import cases  # noqa: F401 (registers the profiles of hypothesis)
import numpy as np
import pytest

from noprop_dist.api import train
from noprop_dist.config.layers import load_config

TINY = [
    *(
        "blocks.count=2",
        "blocks.network={kind: mlp, width: 4, depth: 1}",
        "training.max_steps=4",
        "training.batch_size=8",
    ),
    *("checkpoint.every_steps=2", "engine.kind=sequential"),
]


@pytest.fixture(scope="session")
def arrays() -> dict[str, Any]:
    """60 images of 3 classes."""
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (60, 1, 4, 4), dtype=np.uint8), np.arange(60) % 3
    return {"x_train": images, "y_train": labels, "x_test": images[:12], "y_test": labels[:12]}


@pytest.fixture(scope="session")
def data_file(arrays: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(file, **arrays)
    return file


@pytest.fixture(scope="session")
def runs(data_file: Path, own_state: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of finished runs: `whole`, `learned` (W_embed), and `first` and `second`, each of one block."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {"whole": [], "learned": ["embedding.kind=learned", "embedding.dim=2", "embedding.sync_steps=2"]}
    kinds |= {"first": ["blocks.only=[1]"], "second": ["blocks.only=[2]"]}
    for name, own in kinds.items():
        settings = [*TINY, "data.name=npz", f"data.root={data_file}", *own]
        train(load_config(None, None, settings), str(folder / name))
    return folder


@pytest.fixture(autouse=True, scope="module")
def no_network() -> Any:
    """No case may wait for another machine, or change one. Other tests of the same process have their network back."""

    def refuse(self: socket.socket, address: Any) -> NoReturn:
        raise ConnectionRefusedError(f"the test has no network, and so no {address}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
