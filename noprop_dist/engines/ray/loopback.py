"""A Ray cluster of several nodes on this machine whose nodes can be killed, for benchmarks and tests of recovery."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.cluster_utils import Cluster

from noprop_dist.errors import TrainingError

STORE_BYTES = 300 * 2**20
QUICK_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 4,
}
"""A dead node is noticed after about two seconds."""


class LoopbackCluster:
    """A head node without cores, and worker nodes of one core each.

    Args:
        nodes: worker nodes.
        jobs_server: whether jobs can be submitted, on a port that is free.
        store_bytes: of each node's object store.
    """

    def __init__(self, nodes: int, jobs_server: bool = False, store_bytes: int = STORE_BYTES) -> None:
        self._store_bytes = store_bytes
        # The agent's usual port may belong to another Ray of this machine; then no job could be submitted.
        head = {"num_cpus": 0, "object_store_memory": store_bytes, "dashboard_agent_listen_port": 0,
                "_system_config": QUICK_HEALTH_CHECKS}  # fmt: skip
        served = {"include_dashboard": jobs_server, **({"dashboard_port": free_port()} if jobs_server else {})}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args={**head, **served})
        self._nodes = [self._add() for _ in range(nodes)]

    @property
    def address(self) -> str:
        """Of the head, HOST:PORT."""
        address: str = self._cluster.address
        return address

    @property
    def jobs_address(self) -> str:
        """Of the jobs server, http://HOST:PORT."""
        return f"http://{self._cluster.webui_url}"

    def kill_node(self, number: int) -> None:
        """SIGKILL the raylet of a worker node; with it go the node's actors and its part of the object store."""
        self._cluster.remove_node(self._nodes[number], allow_graceful=False)

    def return_node(self, number: int) -> None:
        """A new node in the place of a killed one."""
        self._nodes[number] = self._add()

    def add_node(self) -> None:
        """One node more."""
        self._nodes.append(self._add())

    def drain_node(self, number: int, seconds: int) -> None:
        """Announce that a node will leave in so many seconds, as a cloud announces a preemption.

        Raises:
            TrainingError: the cluster refused.
        """
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", self.address]
        command += ["--node-id", self._nodes[number].node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        command += ["--reason-message", "a test", "--deadline-remaining-seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise TrainingError(f"the node could not be drained: {done.stderr or done.stdout}")

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=self._store_bytes)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def loopback_cluster(
    nodes: int, jobs_server: bool = False, store_bytes: int = STORE_BYTES
) -> Iterator[LoopbackCluster]:
    """A `LoopbackCluster` that ends with the `with`."""
    cluster = LoopbackCluster(nodes, jobs_server, store_bytes)
    try:
        yield cluster
    finally:
        cluster.close()
