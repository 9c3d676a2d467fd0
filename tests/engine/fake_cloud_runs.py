"""Runs on a cloud in miniature with Ray's autoscaler, for namespaces of their own; tests assert what they return."""

import os
import signal
import time
from pathlib import Path

from run_facts import fingerprints, records_of

from noprop_dist.bench.live_run import LiveRun
from noprop_dist.bench.networks import sleeping
from noprop_dist.engines.ray.fake_cloud import FakeCloud
from noprop_dist.records import News, RoundDone, WorkerReady

SECONDS = 90.0
SETTINGS = ["blocks.count=3", "evaluation.samples=0", "metrics.port=null", "engine.round_steps=10"]


def wait_for(found, seconds=SECONDS):
    """Whether `found` returned something true in time."""
    end = time.monotonic() + seconds
    while not (it := found()) and time.monotonic() < end:
        time.sleep(0.2)
    return bool(it)


def nodes_of_block_workers(folder):
    return {each.node_id for each in records_of(folder, WorkerReady) if each.worker.startswith("block worker")}


def grow_from_nothing(folder, say):
    """Three blocks on a cluster without any device; the cloud has room for four."""
    cloud = FakeCloud(folder, 4, {"CPU": 1})
    steps = ["training.max_steps=200"]
    run = LiveRun(folder / "run", [*SETTINGS, *steps, *sleeping(0.1, 3)], cloud)
    try:
        most = 0
        while run.running:
            most = max(most, len(cloud.devices()))
            time.sleep(0.2)
        run.finish()
        empty = wait_for(lambda: not cloud.devices())
    finally:
        run.end()
    return fingerprints(run.folder), len(nodes_of_block_workers(run.folder)), most, empty


def kill_the_driver(folder, say):
    """The driver is killed while one device trains and two more are asked for that the cloud does not have."""
    cloud = FakeCloud(folder, 1, {"CPU": 1})
    run = LiveRun(folder / "run", [*SETTINGS, "training.max_steps=100000", *sleeping(0.1, 3)], cloud)
    try:
        run.wait_for("the first device to train", lambda: run.records(RoundDone) != [])
        os.kill(run.driver_pid, signal.SIGKILL)
        run.ended()
        cloud.set_capacity(4)  # what still asks for devices would get them
        empty = wait_for(lambda: not cloud.devices())
        time.sleep(3.0)
        return empty, len(cloud.devices())
    finally:
        run.end()


def ask_for_gpus(folder, say):
    """`engine.device=auto` where the cluster has no GPU yet, and its autoscaler could start some.

    The nodes only say that they have a GPU. So nothing trains in the end; it must not train on their cores.
    """
    cloud = FakeCloud(folder, 0, {"CPU": 1, "GPU": 1})
    run = LiveRun(folder / "run", [*SETTINGS, "training.max_steps=20", "engine.device=auto"], cloud)
    try:
        run_told = wait_for(lambda: "GPU" in run.log() or not run.running, 60.0)
        time.sleep(5.0)
        trained, running = len(run.records(RoundDone)), run.running
        cloud.set_capacity(3)
        came = wait_for(lambda: len(cloud.devices()) == 3, 60.0)
        wait_for(lambda: not run.running, 60.0)
        news = [each.text for each in run.records(News)] if Path(run.folder).exists() else []
        trained = max(trained, len(run.records(RoundDone)))
        return run_told and running, came, trained, run.log() + "\n".join(news)
    finally:
        run.end()
