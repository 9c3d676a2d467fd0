"""A cloud in miniature on this machine: Ray's own autoscaler starts and ends nodes, and the cloud has few at times.

Only for network and process namespaces of its own (`bench/namespaces.py`), because Ray's head takes its usual ports.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

from noprop_dist.engines.ray.fork_server import PRELOADED
from noprop_dist.engines.ray.loopback import STORE_BYTES, ClusterNodes, quick_health_checks
from noprop_dist.errors import TrainingError

ADDRESS = "127.0.0.1:6379"
START_SECONDS = 60
UPDATE_SECONDS = "1"
IDLE_MINUTES = 0.5
"""After which the autoscaler gives a node back; less than a worker takes to start and nodes go before they work."""
MOST_NODES = 100
MEMORY_BYTES = 4 * 2**30
"""Of a node, as the autoscaler is told: it starts none for an actor that asks for more, or where it is told nothing."""
CAPACITY_FILE = "capacity_file"


class FakeCloudProvider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Starts raylets on this machine as nodes, as many as a file says; beyond that it refuses, as a cloud does."""

    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: Any, labels: Any
    ) -> None:
        """Start `count` nodes.

        Raises:
            RuntimeError: the cloud has no room for all of them; it has started some.
        """
        room = int(Path(self.provider_config[CAPACITY_FILE]).read_text()) - (len(self._nodes) - 1)
        measured = {kind: amount for kind, amount in resources.items() if kind != "memory"}  # by the raylet itself
        super().create_node_with_resources_and_labels(node_config, tags, max(0, min(count, room)), measured, labels)
        if count > room:
            raise RuntimeError(f"no capacity for {count - max(0, room)} of {count} nodes")


class FakeCloud(ClusterNodes):
    """A head without cores, and an autoscaler that may have as many nodes as the cloud has room for.

    Args:
        folder: for its files.
        capacity: nodes that the cloud has room for.
        resources: of a node, as {"CPU": 1}.

    Raises:
        TrainingError: Ray's head did not start.
    """

    def __init__(self, folder: Path, capacity: int, resources: Mapping[str, float]) -> None:
        super().__init__(ADDRESS)
        # Paths of sockets are short, and the folder may be deep. It is deleted with this object, or at the end.
        self._ray_folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self._capacity_file = folder / "capacity"
        self.set_capacity(capacity)
        config = folder / "autoscaling.json"
        config.write_text(json.dumps(_autoscaling(self._capacity_file, resources)))
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--autoscaling-config={config}"]
        command += ["--num-cpus=0", f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false"]
        command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats", f"--temp-dir={self._ray_folder.name}"]
        env = os.environ | {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": UPDATE_SECONDS,
        } | PRELOADED | quick_health_checks()  # fmt: skip
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=START_SECONDS, check=False)
        if done.returncode != 0:
            raise TrainingError(f"Ray's head with an autoscaler did not start: {done.stderr or done.stdout}")

    def set_capacity(self, nodes: int) -> None:
        """Let the cloud have room for so many nodes from now on; those that run are not touched."""
        self._capacity_file.write_text(str(nodes))


def _autoscaling(capacity_file: Path, resources: Mapping[str, float]) -> dict[str, Any]:
    """An autoscaling configuration with one type of node.

    All sections are there, because Ray's defaults lie in a file that its packages lack.
    """
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    has = {**resources, "memory": MEMORY_BYTES, "object_store_memory": STORE_BYTES}
    node = {"resources": has, "node_config": {}, "min_workers": 0}
    empty: dict[str, Any] = {name: {} for name in ("auth", "docker", "file_mounts")}
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
             "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
             "rsync_filter")  # fmt: skip
    return {
        **empty,
        **{name: [] for name in lists},
        "cluster_name": "fake-cloud",
        "max_workers": MOST_NODES,
        "upscaling_speed": MOST_NODES,
        "idle_timeout_minutes": IDLE_MINUTES,
        "file_mounts_sync_continuously": False,
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, "device": {**node, "max_workers": MOST_NODES}},
        "provider": {
            "type": "external",
            "module": f"{__name__}.{FakeCloudProvider.__name__}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            CAPACITY_FILE: str(capacity_file),
            **dict.fromkeys(
                ("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check", "launch_multiple"), True
            ),
        },
    }
