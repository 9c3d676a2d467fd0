"""Spare processes: each node that a worker is on keeps one more ready, so that a lost worker is back at once.

A spare is an idle process of Ray's own pool, with its imports done, that no actor has taken yet. Ray has no public
function that asks for one; its own core asks its nodes in this way. Tried with Ray 2.60.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray._private.grpc_utils import init_grpc_channel
from ray._private.utils import get_runtime_env_info
from ray.core.generated.common_pb2 import Language
from ray.core.generated.node_manager_pb2 import PrestartWorkersRequest
from ray.core.generated.node_manager_pb2_grpc import NodeManagerServiceStub

LEAST_MEMORY_BYTES = 4 * 2**30
"""Of a node that keeps spares."""
AFTER_SECONDS = 10.0
"""From a worker's start to that of a spare, whose imports would take the cores from the first steps."""
KEPT_SECONDS = 7 * 24 * 3600
"""For which Ray keeps it. It ends with the job, too."""
ANSWER_SECONDS = 5.0


class SpareProcesses:
    """The spares of one run's nodes. `now` is always in monotonic seconds.

    Args:
        wanted: on each node.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._seen = set[str]()
        self._due: list[tuple[float, str, int]] = []
        self._asked: list[tuple[Any, Any]] = []

    def started(self, node_id: str, now: float, *, again: bool = False) -> None:
        """Take in that a process of the run is ready on a node.

        Args:
            node_id: of the node.
            now: the time.
            again: whether it took the place of a lost one, and with that a spare.
        """
        missing = 1 if again else 0
        if node_id not in self._seen:
            self._seen.add(node_id)
            missing = self._wanted
        if self._wanted and missing:
            self._due.append((now + AFTER_SECONDS, node_id, missing))

    def advance(self, now: float) -> None:
        """Ask for the spares whose time has come."""
        due = [each for each in self._due if each[0] <= now]
        if not due:
            return
        self._due = [each for each in self._due if each[0] > now]
        self._forget_answered()
        nodes = {node["NodeID"]: node for node in ray.nodes() if _has_room(node)}
        for _, node_id, number in due:
            if node_id in nodes:
                self._ask(nodes[node_id], number)

    def _ask(self, node: Mapping[str, Any], number: int) -> None:
        """Ask without waiting for the answer: without a spare a process takes a few seconds longer, and that is all."""
        channel = init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}")
        context = ray.get_runtime_context()
        request = PrestartWorkersRequest(
            language=Language.PYTHON,
            job_id=bytes.fromhex(context.get_job_id()),
            runtime_env_info=get_runtime_env_info(context.runtime_env),
            num_workers=number,
            keep_alive_duration_secs=KEPT_SECONDS,
        )
        answer = NodeManagerServiceStub(channel).PrestartWorkers.future(request, timeout=ANSWER_SECONDS)
        self._asked.append((answer, channel))

    def _forget_answered(self) -> None:
        waiting = [each for each in self._asked if not each[0].done()]
        _close(channel for answer, channel in self._asked if answer.done())
        self._asked = waiting

    def close(self) -> None:
        """Forget all that was asked for."""
        _close(channel for _, channel in self._asked)
        self._asked.clear()
        self._due.clear()


def _has_room(node: Mapping[str, Any]) -> bool:
    return bool(node["Alive"] and node["Resources"].get("memory", 0.0) >= LEAST_MEMORY_BYTES)


def _close(channels: Iterable[Any]) -> None:
    for channel in channels:
        channel.close()
