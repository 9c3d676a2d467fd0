"""A Ray cluster of several nodes on this machine whose nodes can be killed, for benchmarks and tests of recovery."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private.state import GlobalState
from ray._raylet import GcsClient, GcsClientOptions  # type: ignore[attr-defined] # compiled
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from noprop_dist.engines.ray import forked_worker
from noprop_dist.engines.ray.cluster import MARKET_TYPE_LABEL
from noprop_dist.engines.ray.fork_server import PRELOADED
from noprop_dist.engines.ray.forked_worker import ADDRESS
from noprop_dist.errors import TrainingError

STORE_BYTES = 300 * 2**20
QUICK_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 4,
}
"""A dead node is noticed after about two seconds."""


def quick_health_checks() -> dict[str, str]:
    """The same as environment variables, for a head that is started by a command."""
    return {f"RAY_{name}": str(value) for name, value in QUICK_HEALTH_CHECKS.items()}


class ClusterNodes:
    """The nodes of a cluster whose raylets are processes of this machine, and what a cloud does to them.

    Args:
        address: of the cluster, HOST:PORT.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._state: Any = None

    def devices(self) -> frozenset[str]:
        """Identifiers of the nodes that are alive and have a core or a GPU."""
        if self._state is None:
            self._state = GlobalState()
            options = GcsClientOptions.create(
                self.address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
            )
            self._state._initialize_global_state(options)
        table = [node for node in self._state.node_table() if node["Alive"]]
        return frozenset(node["NodeID"] for node in table if {"CPU", "GPU"} & node["Resources"].keys())

    def announce(self, node: str, seconds: float) -> None:
        """Announce that a node will leave in so many seconds, as a cloud announces a preemption.

        Raises:
            TrainingError: the cluster refused.
        """
        deadline_ms = int(1000 * (time.time() + seconds))
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")  # what `ray drain-node` sends
        accepted, why = GcsClient(address=self.address).drain_node(node, reason, "announced by the cloud", deadline_ms)
        if not accepted:
            raise TrainingError(f"the node could not be drained: {why}")

    def take_away(self, node: str) -> None:
        """SIGKILL the raylet of a node; with it go the node's actors and its part of the object store."""
        option = f"--node_id={node}".encode()
        for process in Path("/proc").iterdir():
            try:
                found = process.name.isdecimal() and option in (process / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            if found:
                os.kill(int(process.name), signal.SIGKILL)


class LoopbackCluster(ClusterNodes):
    """A head node without cores, and worker nodes of one core each.

    Args:
        nodes: worker nodes.
        jobs_server: whether jobs can be submitted, on a port that is free.
        store_bytes: of each node's object store.
        stable_head: whether the head is no preemptible node, so that a coordinator may be on it.
    """

    def __init__(
        self, nodes: int, jobs_server: bool = False, store_bytes: int = STORE_BYTES, stable_head: bool = True
    ) -> None:
        self._store_bytes = store_bytes
        # The agent's usual port may belong to another Ray of this machine; then no job could be submitted.
        head = {"num_cpus": 0, "object_store_memory": store_bytes, "dashboard_agent_listen_port": 0,
                "_system_config": QUICK_HEALTH_CHECKS, **_imports(),
                **({} if stable_head else {"labels": {MARKET_TYPE_LABEL: "spot"}})}  # fmt: skip
        served = {"include_dashboard": jobs_server, **({"dashboard_port": free_port()} if jobs_server else {})}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args={**head, **served})
        super().__init__(self._cluster.address)
        self._nodes = [self._add() for _ in range(nodes)]

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
        """Announce that a node will leave in so many seconds."""
        self.announce(self.node_id(number), seconds)

    def node_id(self, number: int) -> str:
        """Ray's identifier of a node."""
        identifier: str = self._nodes[number].node_id
        return identifier

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=self._store_bytes, **_imports())


def _imports() -> dict[str, Any]:
    """Options of a node whose processes are forked, where there is a server for that, or import ahead."""
    return {"worker_path": forked_worker.__file__} if ADDRESS in os.environ else {"env_vars": PRELOADED}


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def loopback_cluster(
    nodes: int, jobs_server: bool = False, store_bytes: int = STORE_BYTES, stable_head: bool = True
) -> Iterator[LoopbackCluster]:
    """A `LoopbackCluster` that ends with the `with`."""
    cluster = LoopbackCluster(nodes, jobs_server, store_bytes, stable_head)
    try:
        yield cluster
    finally:
        cluster.close()
