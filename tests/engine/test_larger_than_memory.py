"""Data larger than the object stores of a cluster: mapped from files, and the bits of a run that holds it in memory."""

import subprocess
import sys

import numpy as np
import pytest
from run_facts import fingerprints, records_of

from noprop_dist.api import train
from noprop_dist.config.layers import load_config
from noprop_dist.config.schema import DataSettings
from noprop_dist.data.load import load_data
from noprop_dist.data.packed import pack
from noprop_dist.engines.ray.loopback import loopback_cluster
from noprop_dist.records import WorkerReady

STORE_BYTES = 80 * 2**20
SETTINGS = [
    *("blocks.count=3", "blocks.network={kind: mlp, width: 8, depth: 1}", "data.augment={crop_padding: 2, flip: true}"),
    *("training.max_steps=460", "checkpoint.every_steps=460", "metrics.port=null", "engine.device=cpu"),
]
"""Somewhat more than an epoch."""


def write_npz(file):
    """Images of 3 KiB, more of them than two object stores hold."""
    random, samples = np.random.default_rng(0), 62_000
    x, y = random.integers(0, 256, (samples, 3, 32, 32), np.uint8), random.integers(0, 10, samples)
    np.savez(file, x_train=x, y_train=y, x_test=x[:500], y_test=y[:500])


@pytest.mark.slow
def test_a_data_set_larger_than_all_object_stores_trains_to_the_same_bits(tmp_path):
    write_npz(tmp_path / "large.npz")
    source = DataSettings(name="npz", root=str(tmp_path / "large.npz"))
    pack(lambda keep: load_data(source, keep), tmp_path / "packed", lambda *_: None)

    config = load_config(None, None, [*SETTINGS, f"data={{name: npz, root: {source.root}}}", "engine.kind=sequential"])
    assert load_data(source).train.inputs.nbytes > 2 * STORE_BYTES
    train(config, str(tmp_path / "resident"))

    run = tmp_path / "streamed"
    streamed = [*SETTINGS, f"data={{name: packed, root: {tmp_path / 'packed'}}}"]
    given = [word for each in streamed for word in ("--set", each)]
    with loopback_cluster(2, store_bytes=STORE_BYTES) as cluster:
        command = [sys.executable, "-m", "noprop_dist", "train", *given, "--run-dir", str(run)]
        subprocess.run([*command, "--address", cluster.address], check=True, timeout=200)
    assert fingerprints(run) == fingerprints(tmp_path / "resident")
    workers = {each.worker for each in records_of(run, WorkerReady)}
    assert {"block worker 1", "block worker 2"} <= workers
