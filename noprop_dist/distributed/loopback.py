"""A Ray cluster of several nodes on this machine, whose nodes can be killed: for benchmarks and tests of recovery."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.cluster_utils import Cluster

STORE_BYTES = 300 * 2**20
QUICK_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 4,
}
"""A dead node is noticed after two seconds or so."""


class LoopbackCluster:
    """A head node without cores, and worker nodes of one core each.

    Args:
        nodes: worker nodes.
    """

    def __init__(self, nodes: int) -> None:
        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "_system_config": QUICK_HEALTH_CHECKS}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
        self._nodes = [self._add() for _ in range(nodes)]

    @property
    def address(self) -> str:
        """Of the head, HOST:PORT."""
        address: str = self._cluster.address
        return address

    def kill_node(self, number: int) -> None:
        """SIGKILL the raylet of a worker node; with it go the node's actors and its part of the object store."""
        self._cluster.remove_node(self._nodes[number], allow_graceful=False)

    def return_node(self, number: int) -> None:
        """A new node in the place of a killed one."""
        self._nodes[number] = self._add()

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)


@contextmanager
def loopback_cluster(nodes: int) -> Iterator[LoopbackCluster]:
    """Such a cluster for the length of a `with`."""
    cluster = LoopbackCluster(nodes)
    try:
        yield cluster
    finally:
        cluster.close()
